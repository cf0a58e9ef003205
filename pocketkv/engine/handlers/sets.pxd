from pocketkv.engine.database cimport Database
from pocketkv.engine.shrinking cimport shrunk
from pocketkv.engine.session cimport Session
