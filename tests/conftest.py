"""One local Ray for the whole session; nine tenths of the tests do without it."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes is a matter of the machine and of what else it does.
settings.register_profile("pairmill", deadline=None)
settings.load_profile("pairmill")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, one runs all tests that use Ray, first; the others take a file at a time."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)  # stable
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
