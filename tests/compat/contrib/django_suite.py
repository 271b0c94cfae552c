"""Run Django's own `BaseCacheTests` on our backend: `python -m tests.compat.contrib.django_suite TESTS URL`.

TESTS is the folder `tests` of Django's source distribution. A process of its own: Django is set up once in a process.
The last line on the output is the number of tests, of failures and of skipped ones.
"""

from __future__ import annotations

import sys
import unittest


def main(tests: str, url: str) -> int:
    """Set Django up, and run the tests."""
    sys.path.insert(0, tests)
    import django
    from django.conf import settings

    backend = {"BACKEND": "syncline.contrib.django.Cache", "LOCATION": url}
    settings.configure(
        SECRET_KEY="tests",
        USE_TZ=False,
        INSTALLED_APPS=["cache"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        CACHES={"default": backend},
        MIDDLEWARE=[],
        ROOT_URLCONF="",
    )
    django.setup()
    from cache import tests as upstream  # type: ignore[import-not-found]
    from django.core.cache import cache
    from django.test import TestCase, override_settings
    from django.test.runner import DiscoverRunner

    caches = upstream.caches_setting_for_tests(base=backend, exclude={"cull", "zero_cull"})

    @override_settings(CACHES=caches)
    class Suite(upstream.BaseCacheTests, TestCase):
        """Django's tests, on a cluster."""

    runner = DiscoverRunner(verbosity=1)
    runner.setup_test_environment()
    databases = runner.setup_databases()
    result = unittest.TextTestRunner(stream=sys.stderr).run(unittest.defaultTestLoader.loadTestsFromTestCase(Suite))
    runner.teardown_databases(databases)
    cache.clear()
    print(result.testsRun, len(result.failures) + len(result.errors), len(result.skipped))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
