from pocketkv.engine.database cimport Database
from pocketkv.engine.session cimport Session
from pocketkv.engine.stream_ids cimport format_id
from pocketkv.engine.stream_value cimport StreamValue

cpdef StreamValue lookup_stream(Database db, bytes key)
cpdef StreamValue read_stream(Database db, bytes key)
