"""The version of timm_ltkd."""
__version__ = '0.1.0'
