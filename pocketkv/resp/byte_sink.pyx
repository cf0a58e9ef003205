# cython: language_level=3
"""Receives a large argument into the bytes object that it becomes.

The plain twin is `byte_sink.py`.
"""

from cpython.buffer cimport PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory

from pocketkv import limits

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    PyObject *c_new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size)
    void Py_XDECREF(PyObject *object)
    char *c_contents "PyBytes_AS_STRING"(PyObject *bytes)


cdef class ByteSink:
    def __cinit__(self, Py_ssize_t size):
        self._size = size
        self._filled = 0
        self._room = min(size, <Py_ssize_t>limits.LARGE_BULK_FIRST_BYTES)
        self._bytes = c_new_bytes(NULL, self._room)
        if self._bytes == NULL:
            raise MemoryError

    def __dealloc__(self):
        Py_XDECREF(self._bytes)

    @property
    def buffered_bytes(self):
        return self._room

    cpdef writable(self):
        cdef Py_ssize_t room
        if self._bytes == NULL:
            raise ValueError("the bulk was finished")
        if self._filled == self._room and self._room < self._size:
            room = min(self._size, 2 * self._room)
            # On failure the object is gone and the pointer NULL.
            _PyBytes_Resize(&self._bytes, room)
            self._room = room
        return PyMemoryView_FromMemory(
            c_contents(self._bytes) + self._filled, self._room - self._filled, PyBUF_WRITE
        )

    cpdef wrote(self, Py_ssize_t count):
        assert 0 <= count <= self._room - self._filled
        self._filled += count

    cpdef finish(self):
        if self._bytes == NULL or self._filled != self._size:
            raise ValueError("the bulk is not whole")
        whole = <object>self._bytes
        Py_XDECREF(self._bytes)
        self._bytes = NULL
        return whole

    cpdef abort(self):
        Py_XDECREF(self._bytes)
        self._bytes = NULL
        self._room = 0
        self._filled = 0
