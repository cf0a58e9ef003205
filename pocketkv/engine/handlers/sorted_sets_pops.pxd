from pocketkv.engine.database cimport Database
from pocketkv.engine.shrinking cimport shrunk
from pocketkv.engine.session cimport Session
from pocketkv.engine.sorted_set_value cimport SortedSetValue
