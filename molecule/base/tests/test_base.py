def test_x(host):
    assert host.service("ssh").is_running
