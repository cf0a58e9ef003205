from pocketkv.engine.arguments cimport canonical_integer
from pocketkv.engine.scripts cimport Script, Scripts, scripts_of
from pocketkv.engine.session cimport Session
