"""How properties are tested: the same examples on every machine, few enough to be quick; none without hypothesis."""
try:
    from hypothesis import HealthCheck, settings
except ImportError:
    collect_ignore_glob = ['test_*.py']
else:
    settings.register_profile(
        'quick', max_examples=40, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    settings.load_profile('quick')
