"""Support for the tests of whole sites."""
