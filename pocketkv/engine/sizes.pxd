cpdef long long key_cost(bytes key)
