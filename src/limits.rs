//! What nobody sets: every size, count and time that comes from outside has its bound here, with its
//! unit, its reason, and what the one beyond it gets.

use std::ops::RangeInclusive;
use std::time::Duration;

// ---- Connections ----

/// Request line and headers together; beyond it 431. A browser sends 2 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines; beyond it 431.
pub const HEADERS_MAX: usize = 100;
/// Request body, also the sum of its chunks; beyond it 413, without reading it.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// From the first byte of a head to its end; beyond it 408.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// From the end of the head to the end of the body; beyond it 408.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted; the kernel keeps to its own bound (`net.core.somaxconn`) as well. Beyond it
/// callers are not let in and try again after 1 s, 3 s, 7 s … The library's 128 were full within minutes of standing
/// still.
pub const LISTEN_BACKLOG: i32 = 4096;
/// A kept connection without a request is closed after this.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(75);
/// A client that does not read: without progress of a write for so long, it is closed.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// A comment line keeps an event stream open for the proxies on its way.
pub const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes of a stream that wait for a reader; a source is not asked for more beyond it.
pub const STREAM_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Event streams at once over all connections, and no more than half of the connections; beyond it 503.
pub const STREAMS_MAX: usize = 256;
/// Whole requests that wait for a request thread, and as many for the one that waits for no disk; beyond it 503.
pub const QUEUE_MAX: usize = 256;
/// From a whole request to its answer, the queue included; beyond it 503, and a request that nobody has begun is dropped.
/// Reading a log from a busy disk takes seconds.
pub const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// The same where the hub may be asked, or every file of the model cache be looked at.
pub const LONG_REQUEST_WAIT: Duration = Duration::from_secs(110);
/// The same for a provision, which goes on without who asked: it can be asked for again. Gigabytes over a slow line.
pub const PROVISION_REQUEST_WAIT: Duration = Duration::from_secs(3600);
/// A line about requests that were not answered in time is written no more often than this by each loop; the next one
/// counts those before it.
pub const LATE_LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Empty lines tolerated before a request line (some clients end a body with one); beyond it 400.
pub const EMPTY_LINES_MAX: u8 = 4;
/// The line before a chunk, its extensions included; beyond it 400.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// All lines after the last chunk; beyond it 431.
pub const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Bytes that a loop reads at once. What a connection leaves of them is kept for it, so this bounds
/// that too.
pub const READ_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
/// Reads of one connection before the others of its loop have their turn.
pub const READS_PER_TURN: u32 = 8;
/// Requests of one connection before the others of its loop have their turn: what is read at once may hold a thousand.
pub const REQUESTS_PER_TURN: u32 = 16;
/// At the limit of connections, one that was answered is preferred for so long to those that have not asked anything.
pub const SERVED_GRACE: Duration = Duration::from_secs(5);
/// Answers of pipelined requests are written together once they are so long.
pub const WRITE_BATCH_BYTES: usize = 64 * 1024;
/// Connections accepted before those that a loop has already have their turn.
pub const ACCEPTS_PER_TURN: usize = 64;
/// No descriptor is left and no connection can be closed for one: accepting stops for so long.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// A refused client may go on sending for so long, and so much, before it is cut off: a connection
/// closed over unread bytes is reset, and the client would never see the refusal.
pub const LINGER: Duration = Duration::from_secs(2);
/// Bytes of it.
pub const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Connections beyond `--max-connections` that are being told so, in each loop, and no more than a quarter of the
/// others; beyond it they are closed without a word.
pub const REFUSING_MAX: usize = 64;
/// Deadlines of connections are looked at no more often than this.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A warning that clients can cause is repeated no more often than this.
pub const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Largest `--max-connections`.
pub const CONNECTIONS_MAX: usize = 65_536;
/// Largest `--threads`.
pub const THREADS_MAX: usize = 64;
/// Event loops: two reached nginx on two cores, and one core more is nothing a hive needs.
pub const EVENT_LOOPS: usize = 2;
/// Descriptors that the hive asks for beside those of `--max-connections`: each worker has its pidfd, its log and
/// an exchange, each follower a log, each file of a download a lock, and the hive its own few dozen.
pub const DESCRIPTORS_BESIDE_CONNECTIONS: usize =
    3 * WORKERS_MAX + FOLLOWERS_MAX + 2 * REFUSING_MAX + DOWNLOADS_AT_ONCE * SELECTION_FILES_MAX + 256;
/// How long the end of the hive waits for answers that are being written.
pub const HTTP_DRAIN: Duration = Duration::from_secs(1);
/// How long it then waits for its request threads; one that hangs in a disk is left behind.
pub const REQUEST_THREADS_END: Duration = Duration::from_secs(2);
/// How long the end of the hive waits for what else may hang in a disk; then it is left behind as well.
pub const THREADS_END: Duration = Duration::from_secs(5);
/// A request that changes something waits for the supervisor's answer at most so long; then 503.
pub const REPLY_WAIT: Duration = Duration::from_secs(10);

// ---- The service manager ----

/// A message to it waits for room in its socket at most so long; then it is not sent.
pub const NOTIFY_SEND: Duration = Duration::from_secs(1);
/// Shortest time in which it may want a sign of life; one that wants it more often gets it every half of this, so that
/// nothing turns in a circle.
pub const WATCHDOG_MIN: Duration = Duration::from_millis(200);

// ---- Wrong tokens ----

/// Wrong tokens from an address within [`ATTEMPTS_WINDOW`]; after so many it gets 429 for [`ATTEMPTS_BLOCK`]. A program
/// that was set up wrongly is seen before that; who guesses needs millions.
pub const ATTEMPTS_MAX: u32 = 20;
/// They are counted from the first one for so long.
pub const ATTEMPTS_WINDOW: Duration = Duration::from_secs(60);
/// How long an address is then not listened to.
pub const ATTEMPTS_BLOCK: Duration = Duration::from_secs(60);
/// Addresses of which wrong tokens are remembered; beyond it the one that would be forgotten next is forgotten now.
pub const ATTEMPTS_SOURCES_MAX: usize = 4096;
/// A line about a blocked address is written no more often than this; the next one counts those before it.
pub const ATTEMPTS_LINE_INTERVAL: Duration = Duration::from_secs(1);

// ---- Arguments ----

/// Characters of a model reference.
pub const MODEL_REF_BYTES_MAX: usize = 256;
/// Context tokens of a worker.
pub const CTX_MAX: u32 = 16 * 1024 * 1024;
/// Slots of a worker.
pub const PARALLEL_MAX: u32 = 1024;
/// Names and values of a spawn's `env` together.
pub const SPAWN_ENV_BYTES_MAX: usize = 32 * 1024;
/// Entries of a spawn's `extra_args`.
pub const EXTRA_ARGS_MAX: usize = 64;
/// Bytes of one of them.
pub const EXTRA_ARG_BYTES_MAX: usize = 4096;
/// `Idempotency-Key`: visible ASCII characters.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// How long the same key answers with the same worker.
pub const IDEMPOTENCY_KEEP: Duration = Duration::from_secs(600);
/// Keys kept; beyond it the oldest is forgotten.
pub const IDEMPOTENCY_KEYS_MAX: usize = 4096;
/// Lines of a log if none are asked for.
pub const LOG_TAIL_LINES: usize = 100;
/// Lines of a log that one request may ask for.
pub const LOG_TAIL_LINES_MAX: usize = 10_000;
/// Bytes of a log's end that one request may get.
pub const LOG_TAIL_BYTES_MAX: u64 = 1024 * 1024;

// ---- Settings ----

/// `--heartbeat-interval`.
pub const HEARTBEAT_INTERVAL: RangeInclusive<Duration> = RELAY_INTERVAL_MIN..=RELAY_INTERVAL_MAX;
/// `--worker-heartbeat-timeout`.
pub const WORKER_HEARTBEAT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(86_400);
/// `--ready-timeout`.
pub const READY_TIMEOUT: RangeInclusive<Duration> = WORKER_HEARTBEAT_TIMEOUT;
/// `--shutdown-timeout`; zero kills at once.
pub const SHUTDOWN_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// `--idle-timeout`; zero is never.
pub const ORPHAN_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);
/// As `--idle-timeout` has it.
pub const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);
/// Largest `--restart-limit`.
pub const RESTART_LIMIT_MAX: u32 = 1_000_000;
/// Characters of `--hive-id`.
pub const HIVE_ID_BYTES_MAX: usize = 64;
/// Characters of `--worker-host`, as in a DNS name.
pub const HOST_BYTES_MAX: usize = 253;
/// Characters of a URL that is set.
pub const URL_BYTES_MAX: usize = 2048;

// ---- Files ----

/// A token file: one line.
pub const TOKEN_FILE_BYTES_MAX: u64 = 4096;
/// A kind manifest.
pub const MANIFEST_BYTES_MAX: u64 = 256 * 1024;
/// Characters of a name that a mistake in a manifest repeats; of a longer one the beginning.
pub const MISTAKE_NAME_CHARS_MAX: usize = 64;
/// Characters of a kind's name.
pub const KIND_NAME_BYTES_MAX: usize = 64;
/// A manifest's `probe.interval`.
pub const PROBE_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(3600);
/// A manifest's `probe.timeout`.
pub const PROBE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// A program that is asked for its version; beyond it it is killed, and its version is unknown. vLLM takes seconds.
pub const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// What a request waits for versions that nobody has asked for yet; beyond it they are unknown to it.
pub const VERSION_WAIT: Duration = Duration::from_secs(2);
/// What a program may print when it is asked for its version; beyond it it is killed, and its version is unknown.
pub const VERSION_OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Characters of a version; what is beyond is left out.
pub const VERSION_CHARS_MAX: usize = 120;
/// A program that did not tell its version is asked again after so long.
pub const VERSION_RETRY: Duration = Duration::from_secs(60);
/// Programs that are asked for their versions at once; further ones wait.
pub const VERSIONS_AT_ONCE: usize = 4;
/// Versions that are remembered; beyond it the one looked at longest ago is forgotten.
pub const VERSIONS_KEPT_MAX: usize = 256;

// ---- Provision ----

/// An artifact, an executable or an archive, as it comes; a longer one is not fetched.
pub const ARTIFACT_BYTES_MAX: u64 = 4 << 30;
/// What an archive may hold, unpacked; beyond it it is refused. GPU engines with their libraries have some GiB.
pub const UNPACKED_BYTES_MAX: u64 = 16 << 30;
/// Files, folders and links of an archive; beyond it it is refused. A Python environment with vLLM has 30 000.
pub const UNPACKED_ENTRIES_MAX: usize = 100_000;
/// Bytes of a path in an archive; beyond it it is refused.
pub const UNPACKED_PATH_BYTES_MAX: usize = 1024;
/// Bytes of a name in such a path, which is what file systems of Linux take; beyond it it is refused.
pub const UNPACKED_NAME_BYTES_MAX: usize = 255;
/// Folders within folders in an archive; beyond it it is refused.
pub const UNPACKED_DEPTH_MAX: usize = 32;
/// What stands before an entry's bytes in an archive, long names included; beyond it it is refused.
pub const UNPACKED_HEADER_BYTES_MAX: u64 = 64 * 1024;
/// What unpacking leaves of the disk, so that logs and downloads go on; what does not fit beside it is refused.
pub const UNPACKED_DISK_LEFT_BYTES: u64 = 256 << 20;
/// A published checksum: a line for each platform.
pub const CHECKSUM_BYTES_MAX: u64 = 64 * 1024;
/// The record of an installed kind: a line for each of [`UNPACKED_ENTRIES_MAX`], 1 KiB each at worst.
pub const INSTALL_RECORD_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Characters of a version that is asked for.
pub const KIND_VERSION_BYTES_MAX: usize = 64;
/// Provisions that have not ended; beyond it 503. They run one after the other.
pub const PROVISIONS_MAX: usize = 16;
/// Who waits for the end of one provision; beyond it 503.
pub const PROVISION_WAITERS_MAX: usize = 256;

// ---- Models on disk ----

/// Files and folders of one model's snapshot; beyond it the model is refused. The largest have some hundred.
pub const SNAPSHOT_ENTRIES_MAX: usize = 10_000;
/// Shards of one model; a name that says more is taken for that of a whole file. The largest have some hundred.
pub const SHARDS_MAX: u32 = 1000;
/// Folders within folders of a snapshot; what lies deeper is not looked at.
pub const SNAPSHOT_DEPTH_MAX: usize = 4;
/// A file in `refs/`: the name of a commit.
pub const REF_BYTES_MAX: u64 = 256;
/// Header of a safetensors file, as its reference reader has it.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100_000_000;
/// A name or a text in that header; beyond it the file is refused. Training notes are the longest.
pub const SAFETENSORS_TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Tensors of one safetensors file; beyond it the file is refused. A mixture of 384 experts that is not split has
/// some hundred thousand.
pub const SAFETENSORS_TENSORS_MAX: u64 = 262_144;
/// A model's `config.json`; beyond it the file is refused. Those that name each layer's quantisation have some
/// hundred KiB.
pub const CONFIG_JSON_BYTES_MAX: u64 = 1024 * 1024;
/// Header of a GGUF; beyond it the file is refused. A vocabulary of 256 000 tokens makes 15 MiB.
pub const GGUF_HEADER_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Entries of a GGUF's metadata; beyond it the file is refused. Usual are 30 to 60.
pub const GGUF_ENTRIES_MAX: u64 = 4096;
/// Tensors of a GGUF; beyond it the file is refused. The largest models have some thousand.
pub const GGUF_TENSORS_MAX: u64 = 65_536;
/// A key of a GGUF, as its specification has it; beyond it the file is refused.
pub const GGUF_KEY_BYTES_MAX: u64 = 65_535;
/// A text of a GGUF's metadata; a longer one is not kept: a chat template is of no use here.
pub const GGUF_TEXT_KEPT_BYTES_MAX: u64 = 1024;
/// Numbers of an array in a GGUF's metadata; of a longer one only the length is kept. One for each layer is what
/// is needed.
pub const GGUF_ARRAY_KEPT_MAX: u64 = 8192;
/// Keys, texts, numbers and names that are kept of a GGUF's header in all; beyond it the file is refused.
pub const GGUF_KEPT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What may be read of a GGUF beyond its header.
pub const GGUF_READ_AHEAD_BYTES: usize = 64 * 1024;
/// A worker's log; beyond it the older part becomes `.log.1`, and what was there before is gone. It is noticed
/// within [`LOG_LOOK`], and what a worker writes meanwhile is beyond the bound.
pub const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// How often the length of a log is looked at while it grows.
pub const LOG_LOOK: Duration = Duration::from_millis(20);
/// The same of one that grew by half its bound since the last look: one worker that writes 2 GB/s gets 10 MB further.
pub const LOG_LOOK_FLOOD: Duration = Duration::from_millis(5);
/// The same where the system has no watch left to tell when a log grows.
pub const LOG_LOOK_UNTOLD: Duration = Duration::from_secs(1);
/// A log that is over its bound again so soon, or grew by half of it since the last look, is cut instead of moved
/// aside: up to 50 MiB a second nothing is lost that a reader keeps up with; beyond it copying would cost more than the
/// log is worth, and take so long that it grows far beyond the bound meanwhile.
pub const LOG_WHOLE_INTERVAL: Duration = Duration::from_millis(200);
/// What is kept of a log that is cut: four times what is looked through for why a worker ended.
pub const LOG_CUT_KEPT_BYTES: u64 = 256 * 1024;
/// A log that could be neither moved aside nor cut, and a data directory that cannot be written, are tried again
/// after so long.
pub const DISK_RETRY: Duration = Duration::from_secs(2);
/// Who asks for the health of the hive has the disk looked at for the next who asks, so often at most.
pub const DISK_LOOK: Duration = Duration::from_secs(2);
/// A disk with less left than this, and than [`DISK_NEARLY_FULL_PERCENT`] of it, is called nearly full.
pub const DISK_NEARLY_FULL_BYTES: u64 = 256 * 1024 * 1024;
/// The same of a small disk.
pub const DISK_NEARLY_FULL_PERCENT: u64 = 5;
/// Lines of a log kept with the exit of a worker.
pub const EXIT_LOG_LINES: usize = 20;
/// Bytes read from a log's end for them.
pub const EXIT_LOG_BYTES_MAX: u64 = 8 * 1024;
/// Lines of a log's end that are looked through for why a worker ended: a Python traceback hides the cause.
pub const REASON_LOG_LINES: usize = 400;
/// Bytes read from a log's end for them.
pub const REASON_LOG_BYTES_MAX: u64 = 64 * 1024;

/// Followers of logs at once; beyond it 503.
pub const FOLLOWERS_MAX: usize = 256;
/// Bytes that wait for one follower; the log is not read on before it took some.
pub const FOLLOWER_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// A line as one event; a longer one becomes several.
pub const FOLLOWER_LINE_BYTES_MAX: usize = 64 * 1024;
/// Read from a log at once.
pub const LOG_BLOCK_BYTES: usize = 64 * 1024;

// ---- Workers ----

/// Workers at once, ended ones not counted.
pub const WORKERS_MAX: usize = 1024;
/// Added to a worker's `oom_score_adj`, which it has from the hive: a tenth of the machine's memory, far more than a
/// hive has.
pub const WORKER_OOM_SCORE_RAISE: i32 = 100;
/// Memory of a dead worker that the driver does not give back is waited for so long.
pub const MEMORY_RETURN_WAIT: Duration = Duration::from_secs(5);
/// A worker admitted in the place of others waits so long beyond their grace before it is given up.
pub const ROOM_WAIT: Duration = Duration::from_secs(20);
/// Memory that a spawn may ask for, in bytes: a pebibyte.
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;
/// Quantisations of a repository that are looked at for one that fits.
pub const SUGGESTED_MODELS_MAX: usize = 16;
/// Layers of a model.
pub const MODEL_LAYERS_MAX: u64 = 4096;
/// Any other number of a model's metadata. Products of three of them stay within 64 bits with room to spare
/// for small factors; beyond that sums and products saturate.
pub const MODEL_NUMBER_MAX: u64 = 1 << 28;
/// Models whose headers are remembered.
pub const INSPECTED_MODELS_MAX: usize = 64;
/// GPUs that one worker may be split over.
pub const DEVICES_PER_WORKER_MAX: usize = 16;
/// GPUs for which llama.cpp can be told the parts of a model: it refuses as many as it knows devices, which is 16.
/// Beyond it nothing is said, and it splits by what is free.
pub const TENSOR_SPLIT_MAX: usize = 15;
/// A worker that ended stays askable for so long.
pub const GONE_KEEP: Duration = Duration::from_secs(600);
/// Ended workers kept; beyond it the oldest is forgotten.
pub const GONE_MAX: usize = 256;
/// First wait before a restart; doubles with each.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before a restart.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A drained hive that stops idle workers lets one be idle for so long: between two requests of one client there is
/// a moment.
pub const DRAIN_IDLE_AFTER: Duration = Duration::from_secs(1);
/// A worker that was well for so long has its restarts forgotten.
pub const RESTARTS_FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// All of a start, as a multiple of `--ready-timeout`: progress does not excuse it for ever.
pub const READY_TOTAL_FACTOR: u32 = 10;
/// How often a loading worker is asked whether it is ready.
pub const LOADING_PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// How often the memory, reads and log of a worker are looked at.
pub const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the workers of a hive may at least live that left them to the next one.
pub const ORPHAN_TIMEOUT_KEPT_MIN: Duration = Duration::from_secs(10 * 60);
/// How often a guardian looks whether another hive has come.
pub const GUARDIAN_LOOK: Duration = Duration::from_millis(200);
/// How often it looks whether a worker of the dead hive still lives; if none does twice in a row, it ends.
pub const GUARDIAN_LOOK_FOR_WORKERS: Duration = Duration::from_secs(2);
/// How often it kills what was started meanwhile; what then still comes is left.
pub const GUARDIAN_KILL_ROUNDS_MAX: u32 = 50;
/// A guardian that died is not replaced sooner than this after its start.
pub const GUARDIAN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a hive that starts looks for a worker that its predecessor was launching when it died; then it is taken
/// for dead. Such a process shows its mark only after its exec.
pub const ADOPT_LOOKS_MAX: u32 = 10;
/// Time between two of these looks.
pub const ADOPT_LOOK_WAIT: Duration = Duration::from_millis(20);
/// How long a start waits for what a hive that was killed a moment ago still holds, its lock or its address: a process
/// that it was about to start has both until its exec, some milliseconds on a loaded machine. Beyond it the start fails.
pub const PREDECESSOR_WAIT: Duration = Duration::from_secs(1);
/// Time between two such looks.
pub const PREDECESSOR_LOOK: Duration = Duration::from_millis(10);
/// The record of a worker: what a spawn may hold at most, with every byte escaped. A longer file is none.
pub const RECORD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Records that are read at a start; there are at most as many workers. The rest is left alone, with a warning.
pub const RECORDS_MAX: usize = 4 * WORKERS_MAX;
/// Time between two questions to a native worker that was adopted and has not called since.
pub const ESTRANGED_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// A hive that starts is not ready before workers that it adopted have answered, or this time is over.
pub const ADOPTION_WAIT: Duration = Duration::from_secs(2);
/// A hive that ends and keeps its workers waits so long for launches that are under way; what is not known to run by
/// then is for the next hive to find.
pub const KEEP_WAIT: Duration = Duration::from_secs(5);
/// A silent worker that is deaf to so many probes in a row is killed.
pub const DEAF_PROBES: u32 = 3;
/// Time between those probes.
pub const DEAF_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A port on which somebody else listened is left alone for so long.
pub const PORT_AVOID: Duration = Duration::from_secs(60);
/// How often a worker gets another port because somebody else has its own, without that being a crash.
pub const PORT_MOVES_MAX: u32 = 8;
/// What SIGKILL may take in the cascade before the hive ends without having seen the death: a process of
/// hundreds of GiB is taken apart for seconds.
pub const CASCADE_KILL_WAIT: Duration = Duration::from_secs(10);
/// How long the end of a worker waits for the last lines of its log; beyond it it ends without them, and without a
/// reason out of them. A disk that is busy with models takes seconds.
pub const LOG_TAIL_WAIT: Duration = Duration::from_secs(5);
/// The supervisor that wakes so much too late has slept (a stopped process, a suspended machine).
pub const SLEPT_AFTER: Duration = Duration::from_secs(1);

/// Before the first look at a group that is being killed, and before the second; doubles from then on.
pub const GROUP_LOOK_FIRST: Duration = Duration::from_millis(1);
/// Longest wait between two such looks: only a process stuck in the kernel takes that long.
pub const GROUP_LOOK_MAX: Duration = Duration::from_millis(100);
/// Looks at a dying worker's orphan without a readable environment (it may be in the middle of an
/// exec); beyond it, it is taken for a stranger.
pub const ORPHAN_LOOKS_MAX: u32 = 6;
/// An environment in which an owner mark is looked for; the rest is not read.
pub const ENVIRON_BYTES_MAX: u64 = 4 * 1024 * 1024;

// ---- Exchanges with workers ----

/// Any exchange with a worker that has no time of its own.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer of a worker to a probe; the rest is not read.
pub const EXCHANGE_BYTES_MAX: usize = 256 * 1024;

// ---- Devices ----

/// A picture of the devices serves whoever asks for so long: a thousand requests a second cost one probe.
pub const DEVICES_FRESH: Duration = Duration::from_secs(1);
/// Figures of GPUs that are older because a driver hangs are called stale.
pub const DEVICES_STALE_AFTER: Duration = Duration::from_secs(2);
/// Time between two looks that were asked for beside that.
pub const DEVICES_REFRESH: Duration = Duration::from_millis(200);
/// The first answer of a probe child: a driver without its persistence daemon wakes every card first.
pub const PROBE_FIRST_ANSWER: Duration = Duration::from_secs(10);
/// Any later answer; beyond it the child is killed. More than [`NVIDIA_SMI_TIMEOUT`].
pub const PROBE_ANSWER: Duration = Duration::from_secs(3);
/// A line of a probe child: a thousand processes on each of sixteen cards; beyond it the child is killed.
pub const PROBE_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// All runs of `nvidia-smi` for one look; beyond it it is killed.
pub const NVIDIA_SMI_TIMEOUT: Duration = Duration::from_secs(2);
/// What one run of it may print; beyond it it is killed.
pub const NVIDIA_SMI_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Where no driver was found, the next look for one.
pub const DRIVER_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// First wait before a failed probe child has a successor; doubles.
pub const PROBE_BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before that.
pub const PROBE_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Killed probe children that hang in the kernel; beyond it no other is started until one is dead.
pub const PROBES_LEFT_MAX: usize = 4;
/// What the end of the hive, or of a command, waits for a killed probe child.
pub const PROBE_KILL_WAIT: Duration = Duration::from_millis(500);
/// A file of sysfs, procfs or a cgroup; the rest is not read.
pub const KERNEL_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// GPUs of a machine, MIG instances of a GPU, processes on a GPU; what is beyond is not looked at.
pub const GPUS_MAX: usize = 64;
/// Processes that use a GPU.
pub const GPU_USERS_MAX: usize = 1024;
/// Used memory of a GPU that belongs to no process that the driver tells of; beyond it the driver does not
/// tell of all. Drivers keep some hundred MiB for themselves.
pub const GPU_UNEXPLAINED_BYTES: u64 = 1024 * 1024 * 1024;

// ---- Models from the hub ----

/// How often a blob's lock that somebody else has is tried: it cannot be waited for together with a cut.
pub const BLOB_LOCK_LOOK: Duration = Duration::from_millis(100);
/// It is told that somebody else has it after so long, and looked as often whether he goes on.
pub const BLOB_LOCK_TELL: Duration = Duration::from_secs(10);
/// Whoever has it and brings nothing for so long is not waited for.
pub const BLOB_LOCK_IDLE_MAX: Duration = Duration::from_secs(1800);
/// What came is brought to the disk whenever it is so much.
pub const SYNC_BYTES: u64 = 64 * 1024 * 1024;
/// A network that is faster than the disk waits for it beyond this: a sync cannot be stopped.
pub const UNSYNCED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Attempts in a row that bring less than [`ATTEMPT_PROGRESS_BYTES`]; after them a download ends with an error.
pub const TRANSFER_ATTEMPTS: u32 = 6;
/// An attempt that brought so much was worth it: the count of attempts begins anew.
pub const ATTEMPT_PROGRESS_BYTES: u64 = 1024 * 1024;
/// How often a file is fetched anew because its bytes were not what the hub says that they are.
pub const CORRUPT_REFETCHES: u32 = 2;
/// First wait before another attempt; doubles.
pub const TRANSFER_BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before another attempt that we choose.
pub const TRANSFER_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Longest `Retry-After` that is waited for; one beyond it counts as this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// A transfer without a byte for so long is given up and tried again.
pub const TRANSFER_STALL: Duration = Duration::from_secs(60);
/// What is asked for at once while several connections share a file.
pub const PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Connections that share a file.
pub const TRANSFER_CONNECTIONS_MAX: usize = 8;
/// What is read of a connection, written and hashed at once.
pub const TRANSFER_BUFFER_BYTES: usize = 256 * 1024;
/// Downloads that run at once; the others wait for their turn.
pub const DOWNLOADS_AT_ONCE: usize = 2;
/// Downloads that have not ended; beyond it 503.
pub const DOWNLOADS_MAX: usize = 64;
/// How long a download that ended is still known.
pub const DOWNLOAD_KEEP: Duration = Duration::from_secs(600);
/// Downloads known, ended ones included; beyond it the oldest is forgotten.
pub const DOWNLOADS_KEPT_MAX: usize = 256;
/// How often it is looked how far a download is.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Threads for requests that have to ask the hub.
pub const HUB_THREADS: usize = 4;
/// Requests that wait for one of them; beyond it 503.
pub const HUB_QUEUE_MAX: usize = 64;
/// Shorter files need no further thread.
pub const SMALL_FILE_BYTES: u64 = 1024 * 1024;
/// The parts of a file of which a record says how much is there; a power of two. No read is longer.
pub const CELL_BYTES: u64 = 1024 * 1024;
/// Parts of a file in its record; those of a file over 1 TiB are longer.
pub const CELLS_MAX: u64 = 1 << 20;
/// Gaps in a file that is being fetched: as many as there are connections, and some of each run that was killed.
/// A record with more is none of ours.
pub const GAPS_MAX: usize = 1024;
/// What came of a connection is written after so long, however little it is.
pub const TRANSFER_FLUSH: Duration = Duration::from_millis(100);
/// How long it is first measured what the connections bring before there are more; doubles when more brought nothing.
pub const RAMP_LOOK: Duration = Duration::from_millis(100);
/// Longest such measurement.
pub const RAMP_LOOK_MAX: Duration = Duration::from_millis(1600);
/// After more connections brought nothing they are tried again, so many measurements later.
pub const RAMP_REST_LOOKS: u32 = 10;
/// How long new connections are waited for before it is measured what they bring.
pub const RAMP_CONNECT_MAX: Duration = Duration::from_secs(3);
/// Twice the connections must bring so much more, else there were enough.
pub const RAMP_GAIN_PERCENT: u64 = 125;
/// With so much of a core at work for a file, the hash is what bounds it, and not the network.
pub const RAMP_CORE_PERCENT_MAX: u64 = 75;
/// The same of all cores: with more at work a small machine has other things to do.
pub const RAMP_MACHINE_PERCENT_MAX: u64 = 18;
/// A question to the hub, all its redirects together.
pub const HUB_TIMEOUT: Duration = Duration::from_secs(30);
/// All that one request asks of the hub; beyond it 502.
pub const HUB_ANSWER_MAX: Duration = Duration::from_secs(90);
/// `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds.
pub const HUB_SECONDS: RangeInclusive<u64> = 1..=3600;
/// Redirects of one question; beyond it, or in a loop, the answer is no hub's.
pub const HUB_REDIRECTS_MAX: u32 = 5;
/// A page of the hub's JSON: a thousand files of long names.
pub const HUB_PAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Pages of the list of a repository's files.
pub const HUB_PAGES_MAX: usize = 100;
/// Files of a repository; beyond it it is no model.
pub const HUB_FILES_MAX: usize = 50_000;
/// Files that are fetched together; beyond it it is no model. Of each a lock is held until all are there.
pub const SELECTION_FILES_MAX: usize = 512;
/// Characters of a file's path in a repository.
pub const HUB_PATH_BYTES_MAX: usize = 1024;
/// The index of split safetensors; a longer one is not read. That of 100 000 tensors has 10 MiB.
pub const INDEX_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// A file on the hub; a longer one is a mistake.
pub const HUB_FILE_BYTES_MAX: u64 = 1 << 44;
/// A request to the hub: the address that it redirects to comes out of a head of [`HEAD_BYTES_MAX`].
pub const HUB_REQUEST_BYTES_MAX: usize = HEAD_BYTES_MAX + 8 * 1024;
/// Input buffer of a connection for questions to the hub.
pub const HUB_BUFFER_BYTES: usize = 64 * 1024;
/// Body of a redirect or of an error that is read so that the connection can be kept; beyond it it is closed.
pub const HUB_DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// What is asked for first of a file whose header is read from the hub; doubles.
pub const HUB_WINDOW_BYTES_FIRST: u64 = 1024 * 1024;
/// What is asked for at most at once of such a file.
pub const HUB_WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What is asked for in all of such a file; beyond it reading fails. A GGUF's header, and what its reader takes
/// beyond that.
pub const HUB_HEADER_BYTES_MAX: u64 = GGUF_HEADER_BYTES_MAX + GGUF_READ_AHEAD_BYTES as u64;

// ---- The catalog ----

/// Entries of the model directory that are looked at; what is beyond is not listed.
pub const CATALOG_REPOSITORIES_MAX: usize = 10_000;
/// Files, links and folders of one repository, all its snapshots together; what is beyond is not listed, and
/// nothing of it can be deleted but all of it.
pub const CATALOG_ENTRIES_MAX: usize = 200_000;
/// Folders within folders of a repository; what lies deeper counts as beyond.
pub const CATALOG_DEPTH_MAX: usize = 32;
/// A folder that changed so shortly before it was read is read again: another change within the same tick of
/// the file system's clock would not show.
pub const CATALOG_SETTLED_AFTER: Duration = Duration::from_secs(2);
/// Locks of blobs that a delete holds at once, a descriptor each.
pub const DELETE_LOCKS_MAX: usize = 64;
/// Longest name of a blob that has a lock: with what follows it, it must be the name of a file.
pub const BLOB_NAME_BYTES_MAX: usize = 200;

// ---- The network ----

/// Addresses of a host that are tried; what ureq has room for.
pub const HOST_ADDRS_MAX: usize = 16;

// ---- Events and the queen ----

/// Changes kept for event streams that come back with `Last-Event-ID`.
pub const EVENTS_KEPT: usize = 1024;
/// Changes within this time go to the queen in one heartbeat.
pub const RELAY_COALESCE: Duration = Duration::from_millis(50);
/// A heartbeat to the queen.
pub const RELAY_TIMEOUT: Duration = Duration::from_secs(5);
/// What a heartbeat under way still gets in the cascade.
pub const RELAY_CUT: Duration = Duration::from_secs(1);
/// The last heartbeat.
pub const RELAY_LAST_WORD: Duration = Duration::from_secs(2);
/// First wait after a failed heartbeat; doubles up to the interval.
pub const RELAY_BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Shortest `--heartbeat-interval`: a queen is told, not flooded.
pub const RELAY_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest `--heartbeat-interval`.
pub const RELAY_INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Either buffer of the connection to the queen; an answer's head must fit into it.
pub const RELAY_BUFFER_BYTES: usize = 64 * 1024;
/// What is read of the queen's answer.
pub const RELAY_ANSWER_BYTES_MAX: u64 = 64 * 1024;

// ---- The client ----

/// Until a hive takes the connection.
pub const CLIENT_CONNECT: Duration = Duration::from_secs(5);
/// A call of a hive, from its beginning to the end of the answer: it may have to ask the hub, some times.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);
/// What is read of an answer; a longer one is no hive's.
pub const CLIENT_ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Silence after which a stream is broken: a hive says something every [`STREAM_KEEP_ALIVE`].
pub const CLIENT_SILENCE: Duration = Duration::from_secs(30);
/// Before the first attempt to come back to a stream, or to repeat a spawn; twice as long before each further one.
pub const CLIENT_RETURN_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait.
pub const CLIENT_RETURN_MAX: Duration = Duration::from_secs(5);
/// A stream that gives nothing for so long, because no connection lasts, ends with the error.
pub const CLIENT_RETURN_WITHIN: Duration = Duration::from_secs(30);
/// What a queen reads of a heartbeat; more is no hive's.
pub const HEARTBEAT_BYTES_MAX: usize = 1024 * 1024;
/// A text in a heartbeat; a longer one is no hive's.
pub const HEARTBEAT_TEXT_BYTES_MAX: usize = 1024;
/// Hives that a queen knows; what another one says is dropped.
pub const REALM_HIVES_MAX: usize = 4096;
/// Earlier boots of a hive that a queen knows by name; beyond it the oldest is forgotten.
pub const REALM_PAST_BOOTS_MAX: usize = 16;
/// The longest wait that a caller can ask for; a longer one is cut to it, so that no clock overflows.
pub const CLIENT_WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// What is read of a stream at once.
pub const CLIENT_READ_BYTES: usize = 8 * 1024;
/// A line of an event; a longer one is no hive's.
pub const CLIENT_EVENT_LINE_BYTES_MAX: usize = 256 * 1024;
/// The data of an event; more is no hive's.
pub const CLIENT_EVENT_BYTES_MAX: usize = 512 * 1024;
/// How often in a row `pull` comes back to a stream that broke without an event.
pub const PULL_RETURNS: u32 = 6;
/// First wait before it does; doubles.
pub const PULL_RETURN_FIRST: Duration = Duration::from_millis(500);
/// What `rbee-hive spawn --wait` waits unless it is told otherwise: the hive gives a worker up long before.
pub const SPAWN_WAIT: Duration = Duration::from_secs(86_400);
/// `rbee-hive spawn --timeout`.
pub const SPAWN_WAITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
/// What `rbee-hive doctor` waits for an answer of a hive, a queen or a hub.
pub const DOCTOR_WAIT: Duration = Duration::from_secs(5);
/// What `rbee-hive stop` waits for an end: longer than the longest grace that people set.
pub const STOP_WAIT: Duration = Duration::from_secs(600);
/// Two drawings of its bar are so far apart.
pub const PULL_REDRAW: Duration = Duration::from_millis(100);
/// Without a terminal it says at least so often how far it is.
pub const PULL_LINE: Duration = Duration::from_secs(10);

// ---- Stand-ins ----

/// Messages that a stand-in keeps for its reader, hives and workers that it knows, connections that it
/// lets hang; beyond it the oldest goes, or the newest is refused.
pub const MOCK_KEPT_MAX: usize = 1024;
/// A call of a mock worker to its hive.
pub const MOCK_CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// First wait before such a call is tried again; doubles.
pub const MOCK_RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before that.
pub const MOCK_RETRY_MAX: Duration = Duration::from_secs(5);
/// Longest piece of work of a mock worker.
pub const MOCK_WORK_MAX: Duration = Duration::from_secs(600);
/// Life of a process that a mock worker leaves behind, if nobody ends it.
pub const MOCK_LEFTOVER_LIFE: Duration = Duration::from_secs(600);
/// Time between two signs of progress of a mock of vLLM that loads.
pub const MOCK_VLLM_STEP: Duration = Duration::from_millis(20);
/// Bytes that such a mock takes to show progress; beyond it, it gives them back and begins anew.
pub const MOCK_VLLM_MEMORY_MAX: usize = 64 * 1024 * 1024;
/// Calls of a worker under check that wait to be judged; beyond it the newest is not.
pub const CHECK_CALLS_MAX: usize = 4096;
/// `rbee-mock hive --check`: any of its times.
pub const CHECK_TIME: RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(24 * 60 * 60);
/// Until a worker under check must have said that it is ready, if nobody says.
pub const CHECK_READY_WITHIN: Duration = Duration::from_secs(60);
/// From one heartbeat of it to the next, if nobody says: 30 s, and what a slow machine adds.
pub const CHECK_BEAT_WITHIN: Duration = Duration::from_secs(40);
/// Until it must have left, if nobody says: a third of the usual `--shutdown-timeout`, after which SIGTERM comes.
pub const CHECK_LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// What its children have to end after it; a hive kills them at once.
pub const CHECK_CHILDREN_WAIT: Duration = Duration::from_secs(1);
/// What the death of those may take that it kills; then it goes on without having seen it.
pub const CHECK_KILL_WAIT: Duration = Duration::from_secs(10);
/// Answers to the requests of `--work`, all of them.
pub const CHECK_WORK_WAIT: Duration = Duration::from_secs(120);
/// Requests of `--work` at once: that many slots are filled at most.
pub const CHECK_WORKS_MAX: u32 = 64;
/// Mistakes that are kept of each sort, and lines of its log that are shown.
pub const CHECK_SHOWN_MAX: usize = 3;
/// Characters of such a mistake; of a longer one the beginning.
pub const CHECK_MISTAKE_CHARS_MAX: usize = 200;
/// What is read at once of what it wrote.
pub const CHECK_BLOCK_BYTES: usize = 64 * 1024;
/// Lines of the fault `flood`: with a hundred bytes each, more than [`LOG_BYTES_MAX`].
pub const MOCK_FLOOD_LINES: u64 = 150_000;
/// A file of a mock hub that is longer is a large one, kept in LFS; models are, however short.
pub const MOCK_HUB_LFS_BYTES: u64 = 1024 * 1024;
/// Entries on a page of a mock hub's tree, as the hub has it.
pub const MOCK_HUB_PAGE: usize = 1000;
/// Folders within folders that a mock hub serves; what lies deeper is not looked at.
pub const MOCK_HUB_DEPTH_MAX: usize = 16;
/// Requests that a mock hub knows of; beyond it the oldest is forgotten.
pub const MOCK_HUB_REQUESTS_KEPT: usize = 16_384;
/// Signed locations that a mock hub knows; beyond it the oldest has expired.
pub const MOCK_HUB_LOCATIONS_MAX: usize = 16_384;
/// What a mock hub reads of a file, and writes, at once.
pub const MOCK_HUB_WRITE_BYTES: usize = 256 * 1024;
/// The same where the kernel copies.
pub const MOCK_HUB_SENDFILE_BYTES: usize = 1024 * 1024;
/// Pieces in which a mock hub sends what it must send slowly: many, so that no second begins with a burst.
pub const MOCK_HUB_SLICES_PER_SECOND: u64 = 250;

// ---- The demo ----

/// A step of the demo; beyond it the demo has failed.
pub const DEMO_STEP: Duration = Duration::from_secs(30);
/// What a real engine may take to load its model, or to answer: the slowest machine, not the usual one.
pub const DEMO_ENGINE: Duration = Duration::from_secs(300);
/// How often a wait looks whether the hive still lives and nobody pressed Ctrl-C.
pub const DEMO_LOOK: Duration = Duration::from_millis(50);
/// What the end of everything may take that a failed demo kills.
pub const DEMO_KILL_WAIT: Duration = Duration::from_secs(5);
/// How often an engine is given work until it was seen busy: a fast one is done before it is asked.
pub const DEMO_WORKS_MAX: usize = 20;
/// Ports for the demo's worker: it needs one, and some may be taken.
pub const DEMO_PORTS: u16 = 8;
/// Lines of the hive's log that a failed demo shows.
pub const DEMO_LOG_LINES: usize = 20;

const _: () = assert!(READ_BYTES_MAX > HEAD_BYTES_MAX, "a loop can read past an unfinished head");
const _: () = assert!(STREAMS_MAX < CONNECTIONS_MAX, "streams must leave room for requests");
const _: () = assert!(
    CLIENT_EVENT_LINE_BYTES_MAX > 3 * FOLLOWER_LINE_BYTES_MAX + 8,
    "a byte that is no text becomes three, and the client takes that"
);
const _: () =
    assert!(REPLY_WAIT.as_secs() < REQUEST_WAIT.as_secs(), "the supervisor's silence has a word of its own");
const _: () = assert!(
    HUB_ANSWER_MAX.as_secs() < LONG_REQUEST_WAIT.as_secs(),
    "the hub's silence has a word of its own"
);
const _: () =
    assert!(LONG_REQUEST_WAIT.as_secs() < CLIENT_TIMEOUT.as_secs(), "a client hears that it was too slow");
const _: () = assert!(FOLLOWERS_MAX <= STREAMS_MAX, "a follower is a stream");
const _: () = assert!(EXIT_LOG_BYTES_MAX < LOG_BYTES_MAX, "the end of a log is a part of it");
const _: () =
    assert!(CLIENT_SILENCE.as_secs() > 2 * STREAM_KEEP_ALIVE.as_secs(), "a late comment is no silence");
const _: () = assert!(BACKOFF_FIRST.as_secs() <= BACKOFF_MAX.as_secs(), "the first wait is the shortest");
const _: () =
    assert!(CLIENT_TIMEOUT.as_secs() > HUB_ANSWER_MAX.as_secs(), "a client waits for its hive's hub");
const _: () = assert!(2 * SYNC_BYTES < UNSYNCED_BYTES_MAX, "who waits for the disk is not waited for");
const _: () = assert!(HEAD_BYTES_MAX < RELAY_BUFFER_BYTES, "the head of the queen's answer must fit");
const _: () = assert!(HEAD_BYTES_MAX < HUB_BUFFER_BYTES, "the head of the hub's answer must fit");
const _: () = assert!(HUB_BUFFER_BYTES <= TRANSFER_BUFFER_BYTES, "the same for a transfer");
const _: () =
    assert!(NVIDIA_SMI_TIMEOUT.as_secs() < PROBE_ANSWER.as_secs(), "a child says that its command hung");
const _: () = assert!(
    TRANSFER_BUFFER_BYTES as u64 <= CELL_BYTES && CELL_BYTES.is_power_of_two(),
    "who reads stays in his part"
);
const _: () = assert!(PIECE_BYTES.is_multiple_of(CELL_BYTES), "pieces are whole parts");
const _: () =
    assert!(HUB_FILE_BYTES_MAX / CELLS_MAX <= u32::MAX as u64, "a part's bytes fit into its number");
const _: () = assert!(MOCK_FLOOD_LINES * 100 > LOG_BYTES_MAX, "a flood is more than a log holds");
