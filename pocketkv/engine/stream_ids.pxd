cpdef bytes format_id(entry_id)
