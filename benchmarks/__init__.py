"""The deployed system side by side with what people start by hand. See docs/performance.md."""
