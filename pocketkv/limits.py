"""Every limit of PocketKV's servers, each with its reason.

Client bytes are hostile: a limit is checked before memory is reserved for what was announced, and
it is tighter before AUTH. The values are Redis's where Redis has the limit, so that a client that
works against Redis works here. Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# --- one request -------------------------------------------------------------------------------

# Redis's proto-max-bulk-len: the largest string that it takes.
BULK_BYTES_MAX: Final = 512 * MIB
# Redis accepts INT_MAX arguments; a list of 16 M empty ones is already 128 MiB of pointers.
ARGUMENTS_MAX: Final = 1024 * 1024
# Redis's client-query-buffer-limit: all arguments of one request together.
REQUEST_BYTES_MAX: Final = GIB
# Redis's PROTO_INLINE_MAX_SIZE: an inline request, or a line that announces a length.
LINE_BYTES_MAX: Final = 64 * KIB
# Redis's limits for a connection that still has to authenticate.
UNAUTHENTICATED_ARGUMENTS_MAX: Final = 10
UNAUTHENTICATED_BULK_BYTES_MAX: Final = 16 * KIB
# From this size on, an argument is received into a buffer of its own instead of being cut out of
# the stream, which saves copying it.
LARGE_BULK_BYTES: Final = 16 * KIB
# A large argument's buffer grows with what has arrived, so that announcing 512 MiB and sending
# nothing costs the server no more than this.
LARGE_BULK_FIRST_BYTES: Final = MIB

# How long a string may become on a file tier, if the operator does not say: S3's limit for an
# object that is put in one piece, which is what such programs are used to.
FILE_VALUE_BYTES_MAX: Final = 5 * GIB
# From this size on, a storage server keeps a string in an extent of its medium.
EXTENT_BYTES_MIN: Final = 64 * KIB
# What is backed of an extent before the first byte came, if it is not backed anyway; then twice as
# much each time.
EXTENT_FIRST_BYTES: Final = 256 * KIB
# A string is sent so often by copying it, before it is sent by reference: that costs its pages when
# it is removed, and making new ones costs as much as so many copies.
EXTENT_COPIES_MAX: Final = 8
# Below this size a string is always sent by copying it, which is no slower.
EXTENT_REFERENCE_BYTES_MIN: Final = 128 * KIB
# Room that a journal keeps for records that are written whatever happens (deletions), when it is
# asked for room for a command.
RECORD_MARGIN_BYTES: Final = 256 * KIB
# How much of a large value is read and verified before the first byte of the reply is sent: what
# is found damaged later can only end the connection.
FETCH_FIRST_BYTES: Final = 16 * MIB
# What is read at once of a large value that is to be sent, while only its client waits.
FETCH_BYTES: Final = 4 * MIB
# Free extents that are kept for use while values come and go, as a part of the server's memory and
# at most.
EXTENT_RESERVE_SHARE: Final = 0.02
EXTENT_RESERVE_MAX_BYTES: Final = 64 * MIB

# --- one connection ----------------------------------------------------------------------------

# Events that are taken from the kernel at a time; those left are taken in the next round.
EVENTS_PER_POLL: Final = 512
# What is asked of the kernel in one receive; one connection cannot hold up the others for longer
# than it takes to serve this much.
RECEIVE_BYTES: Final = 64 * KIB
# The same of a client that sends large arguments: what stands before one. The rest of it should
# arrive where it stays.
RECEIVE_HEAD_BYTES: Final = KIB
# A large argument is received in larger pieces, since nothing is executed until it is whole.
RECEIVE_LARGE_BYTES: Final = MIB
# What is sent to one connection before the others' turn, however fast it takes.
SEND_BYTES_PER_TURN: Final = MIB
# Requests that one connection may have served before the next connection's turn.
REQUESTS_PER_TURN: Final = 128
# Unsent replies from which on a connection's further requests wait (they are still received).
REPLY_BACKLOG_HIGH_BYTES: Final = 8 * MIB
# Received requests that wait behind unsent replies; from here on nothing more is received. A
# client that sends a whole pipeline before it reads the first reply (redis-py does) must fit.
REQUEST_BACKLOG_MAX_BYTES: Final = 256 * MIB
# Arguments of the commands of one transaction; large strings are charged to the job instead.
TRANSACTION_BYTES_MAX: Final = 256 * MIB
# A client that takes none of its waiting replies for so long is dropped.
REPLY_STALL_TIMEOUT_S: Final = 30.0
# Writers of large values wait so long for a medium that is behind; then they are refused.
LARGE_HOLD_MAX_S: Final = 10.0
# A request that has begun and not ended for so long is answered with an error and dropped.
PARTIAL_REQUEST_TIMEOUT_S: Final = 300.0
# The same for a connection that has not authenticated although it must.
UNAUTHENTICATED_TIMEOUT_S: Final = 30.0
# Replies of this size and above are sent from where they are stored instead of being copied.
SHARED_REPLY_BYTES: Final = 16 * KIB
# Unread bytes from which on a further out-of-band message means that the client is dropped; the
# value is Redis's for clients that subscribe.
PUSH_BACKLOG_MAX_BYTES: Final = 32 * MIB
# What a job's table of keys that clients keep copies of may take on one server.
TRACKING_TABLE_BYTES_MAX: Final = 64 * MIB
# Pieces handed to the kernel in one sendmsg (the kernel's IOV_MAX is 1024).
SEND_PIECES_MAX: Final = 64
# Replies that a router may owe one client before it stops taking that client's requests.
OUTSTANDING_REQUESTS_MAX: Final = 4096

# What the users and settings of one job take: all members are told all of them at each change.
TERMS_BYTES_MAX: Final = 64 * KIB

# --- one server --------------------------------------------------------------------------------

# Twice Redis's maxclients: ten thousand may wait in blocking commands while others work. A server
# also keeps descriptors for its own connections and files.
CONNECTIONS_MAX: Final = 20_000
RESERVED_DESCRIPTORS: Final = 64
# Buffers of all connections together, as a part of the machine's memory.
CONNECTION_BUFFERS_SHARE: Final = 0.25
CONNECTION_BUFFERS_MIN_BYTES: Final = 512 * MIB
# Connections accepted in one wake-up, so that a connect storm does not hold up served ones.
ACCEPTS_PER_TURN: Final = 64
# The kernel's queue of connections that are not accepted yet.
LISTEN_BACKLOG: Final = 1024
# Databases of one job (SELECT 0..15), as in Redis's default configuration.
DATABASES: Final = 16
# How long the reactor waits for more by itself, before it lets other trio tasks run.
LINGER_MS: Final = 1
# A server that did not run for so long (it was stopped, or its machine was) may have been taken out
# meanwhile: after a silence of 3 s, of which a second may have passed since its last report.
STALL_S: Final = 1.75
# How long the controller may take to tell such a server what is true; then it goes on as with none.
STALL_CONFIRM_TIMEOUT_S: Final = 3.0
# How long the reactor keeps the thread while traffic is hot, before other trio tasks run.
BURST_S: Final = 0.002

# --- background work ---------------------------------------------------------------------------

# Keys that one slice of active expiry looks at.
EXPIRE_KEYS_PER_SLICE: Final = 200
# Orders of containers that are being walked (SCAN, SSCAN ...), kept per database. Each has 16
# bytes per element; a walk whose order was dropped sorts anew.
SCAN_ORDERS_MAX: Final = 16
# Members that SRANDMEMBER draws with repetition: any number may be asked for, of any small set.
RANDOM_MEMBERS_MAX: Final = 16 * 1024 * 1024
# Codes of error replies that are counted one by one: scripts may make up their own.
ERROR_CODES_MAX: Final = 128

# --- scripts -----------------------------------------------------------------------------------

# Memory of one job's interpreter, with the scripts themselves and what they hold while they run. A
# script that takes more fails.
SCRIPT_MEMORY_BYTES: Final = 128 * MIB
# What it can take at the very most: between the two is room for one reply on its way to a script.
SCRIPT_MEMORY_HARD_BYTES: Final = 2 * SCRIPT_MEMORY_BYTES
# Above this, what a script has left behind is looked for at its end.
SCRIPT_MEMORY_IDLE_BYTES: Final = 16 * MIB
# Arguments and replies of a script's commands are no longer than this, and so are scripts.
SCRIPT_REPLY_BYTES_MAX: Final = SCRIPT_MEMORY_BYTES // 2
# Instructions between two looks at the time: about a millisecond.
SCRIPT_INSTRUCTIONS_PER_TICK: Final = 20_000
# How long a script keeps the thread before others have a turn.
SCRIPT_SLICE_NS: Final = 5_000_000
# How long a library may take to be loaded, as in Redis: it cannot be left in the middle.
LIBRARY_LOAD_MS: Final = 500
# Patterns of Lua's string functions: its matcher takes the process's stack for each item.
SCRIPT_PATTERN_BYTES_MAX: Final = 8 * KIB
# What a script may write beyond the quota that says it writes though memory is used up (allow-oom).
SCRIPT_OOM_BYTES: Final = 16 * MIB
# Scripts that are known because EVAL brought them; the ones that were used least lately are
# forgotten first. Those of SCRIPT LOAD stay.
SCRIPTS_FROM_EVAL_MAX: Final = 500

# --- jobs --------------------------------------------------------------------------------------

# A job's name becomes part of its id, of URLs, metrics and file names.
JOB_NAME_CHARACTERS_MAX: Final = 64
JOBS_MAX: Final = 100_000
LEASE_MAX_S: Final = 30 * 24 * 3600

# --- between our own servers -------------------------------------------------------------------

# A server that has not answered for so long is taken not to answer at all.
UPSTREAM_CONNECT_TIMEOUT_S: Final = 1.0
UPSTREAM_REPLY_TIMEOUT_S: Final = 5.0
# One reply of a server that is held whole: several values of the largest size fit.
REPLY_BYTES_MAX: Final = 2 * GIB
# A reply of this size and above is passed on by a router as it arrives, and never held whole for a
# client that takes it.
STREAMED_REPLY_BYTES: Final = 64 * KIB
# Bytes that may be on their way to one storage server before its clients are held back.
UPSTREAM_BACKLOG_MAX_BYTES: Final = 64 * MIB

# --- what an operator sees ---------------------------------------------------------------------

# The port for metrics and health: a few scrapers and probes, which send short requests.
HTTP_CONNECTIONS_MAX: Final = 64
HTTP_REQUEST_BYTES_MAX: Final = 16 * KIB
# From the first byte of a request until its response was taken.
HTTP_REQUEST_TIMEOUT_S: Final = 10.0
# For a client that is refused to take its answer.
HTTP_REFUSAL_TIMEOUT_S: Final = 1.0
# A connection that is kept open between scrapes.
HTTP_IDLE_TIMEOUT_S: Final = 120.0
# One value in a log line may come from a client, and must not fill the disk.
LOG_VALUE_CHARACTERS_MAX: Final = 1024
LOG_TRACE_CHARACTERS_MAX: Final = 16 * 1024

# --- the router --------------------------------------------------------------------------------

# Connections to one server that the clients of one job share: one for those that move small
# values, so that the requests of many leave in one send; the others for large values, which hold
# up who is behind them.
UPSTREAM_LANES: Final = 4
# While a router has fewer connections to servers, it keeps one in reserve for each job and server,
# for the next client that needs one of its own (a blocking command, a transaction): so that this
# costs no time, and comes to the server before what was sent later. With few, from the beginning.
SPARE_LANE_MAX: Final = 1024
EARLY_SPARE_LANE_MAX: Final = 64
# So many requests after a large value its client is still taken to move large ones.
BULKY_REQUESTS: Final = 32
# A shared connection that nobody used for so long is closed.
UPSTREAM_IDLE_TIMEOUT_S: Final = 15.0
# After a server could not be reached, requests for it fail at once for so long, so that a dead
# server costs its clients an error and not a wait.
UPSTREAM_SUSPEND_S: Final = 0.5
# What a request under way is reckoned to cost beside its bytes.
UPSTREAM_REQUEST_OVERHEAD_BYTES: Final = 512
# How long a request that no server takes (its slot moves, the map is late) is tried again, and
# the pause between attempts.
REDIRECT_TIMEOUT_S: Final = 3.0
REDIRECT_PAUSE_S: Final = 0.02
# Replies that may be on their way to one client, by the size of its last ones: what was asked
# for cannot be taken back, so a client that reads slowly is held back before it asks.
CLIENT_REPLIES_TARGET_BYTES: Final = 32 * MIB
# What a reply is taken to be as long as a client has had none.
CLIENT_REPLY_GUESS_BYTES: Final = 256 * KIB
# Replies that wait to be sent to one client; a client that owes its reading more is dropped.
CLIENT_REPLIES_MAX_BYTES: Final = GIB
# How often a server that clients wait for in blocking commands is asked whether it is alive.
UPSTREAM_PROBE_S: Final = 2.0
# How long the controller may take over a command that a router passes on.
CONTROL_TIMEOUT_S: Final = 5.0
