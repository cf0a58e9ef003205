from pocketkv.engine.database cimport Database
from pocketkv.engine.session cimport Session
