from tests.faults import hooks

hooks.install()
