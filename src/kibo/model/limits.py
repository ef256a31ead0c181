"""Named bounds on everything that something outside could make large, each with its reason."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

#: One message between host and guest. Large enough for a screenshot or a page, small enough that a guest which
#: announces the largest frame costs the host less than a hundredth of a small machine. Files stream instead.
MAX_FRAME_BYTES = 16 * MIB

#: Nesting of a value in a message: deeper than any sensible result, far below the interpreter's own recursion limit.
MAX_VALUE_DEPTH = 64

#: What of a remote traceback, or of a build log's end, is kept in an error. A screenful is 5 KiB.
MAX_ERROR_TEXT_BYTES = 64 * KIB

#: Items that a streaming action may send ahead of its reader before it waits.
MAX_STREAM_AHEAD = 256

#: What one stream of `exec` may return; more is an error that points at `popen`.
MAX_EXEC_OUTPUT_BYTES = 64 * MIB

#: What `files.read` returns at most; more is an error that points at `files.download`, which streams to a file.
MAX_READ_BYTES = 256 * MIB

#: A box's classes and parameters as shipped into it. A model's weights belong in `Env.files`.
MAX_DEFINITION_BYTES = 16 * MIB

#: The kernel's PATH_MAX, its terminating zero included.
MAX_PATH_BYTES = 4096

#: The kernel's NAME_MAX: one name in a directory.
MAX_NAME_BYTES = 255

#: A file's path from the root of its layers: what PATH_MAX leaves behind the name of a descriptor in ``/proc``, by
#: which calls that take none, such as those for attributes, reach into a layer.
MAX_TREE_PATH_BYTES = 4000

#: A SKILL.md is guidance for a prompt; 256 KiB is some 60,000 tokens.
MAX_SKILL_BYTES = 256 * KIB

#: Characters of an instance's name, which people type.
MAX_NAME = 200

#: Parts of one sum. Each is a cached state, forked from the one before it and so a level of PID and user namespaces
#: deeper. The kernel allows 31 levels below the first; the warden and the instance take one each, and a host that is
#: a container itself some more.
MAX_PARTS = 24

#: Memory of one box where its Env gives no limit, file pages included.
DEFAULT_MEMORY_BYTES = 2 * GIB

#: Processes and threads of one box: Chromium with a few pages has about 200.
DEFAULT_PIDS = 1024

#: What one box may write to its own file system.
DEFAULT_DISK_BYTES = 4 * GIB

#: Files, directories and links that one box may make in its own file system: each takes an inode, of which a disk has
#: so many and no more. The largest installs have some 300,000; an ext4 of 256 GB has 16 million.
DEFAULT_DISK_FILES = 1_000_000

#: Shared directories that one instance has: each is a mount, made anew at each fork.
MAX_SHARED = 32

#: Open descriptors of one process of a box.
DEFAULT_OPEN_FILES = 4096

#: One action, from its call to its result.
DEFAULT_ACTION_S = 300.0

#: One `launch()`, or one `resume()`: a browser's first start on a slow disk takes a minute, a model's weights some;
#: what has not ended after ten hangs.
DEFAULT_LAUNCH_S = 600.0

#: One build step: the largest installs and a long compilation end within the hour. What is silent for longer hangs.
DEFAULT_STEP_S = 3600.0

#: One order to the warden or its answer. Whatever is larger travels in a channel or a memory file.
MAX_COMMAND_BYTES = 128 * KIB

#: One entry of the log. MariaDB takes 16 MiB in one statement by default, where bytes may be written as two each;
#: what is larger belongs in a file.
MAX_ENTRY_BYTES = 4 * MIB

#: The body of a request that is kept in the ledger, and so of one that can be held. As for an entry of the log.
MAX_EFFECT_BODY_BYTES = 4 * MIB

#: The value of one secret: a key in PEM has some three KiB, a file of a cloud's credentials as much.
MAX_SECRET_BYTES = 16 * KIB

#: What the ledger keeps of an answer's body, to give it again to who asks again: a receipt is a few KiB, a page some
#: hundred. What is longer is passed on whole, and kept as far as this.
MAX_EFFECT_ANSWER_BYTES = 1 * MIB

#: How long `commit` waits for the outcome of what it released, all together. A payment takes seconds; what takes longer
#: goes on, and `kibo effects` tells.
SETTLED_S = 30.0

#: How long a request waits for a person where its rule does not say, and how long an approval holds: time for lunch.
DEFAULT_APPROVAL_S = 3600.0

#: The longest that a rule may say. A request that waits keeps its box and its connection, and what was approved a month
#: ago nobody remembers.
MAX_APPROVAL_S = 30 * 86400.0

#: How long a key that an action or a client names something with stands for it outside of branches, from its end: a
#: quarter. Longer than anybody tries again what was asked for, and than servers know their keys (a day to a month).
KEY_STANDS_S = 90 * 86400.0

#: How long after it was first sent an effect in doubt may be sent again with its key. The servers that forget keys
#: first do so after a day, and clocks differ.
REPEAT_WITHIN_S = 12 * 3600.0

#: What somebody may say of why a request is refused: the box reads it.
MAX_WHY = 1000

#: How long a gateway that is told to end waits for the answers to requests that it has sent. What has none then is in
#: doubt. Shorter than whoever ended it waits.
LAST_ANSWERS_S = 5.0

#: What a recording has of a compressed body of a host that may know a secret, which is unpacked to look for that: pages
#: and their scripts have a few MiB. What would become longer is a bomb, or a download, and is not recorded.
MAX_DECODED_BYTES = 64 * MIB

#: The index of a recording, which is held in memory: some 50,000 requests.
MAX_RECORDING_INDEX_BYTES = 64 * MIB

#: One recording, with its bodies: what a test suite keeps is a thousandth of that.
MAX_RECORDING_BYTES = 16 * GIB

#: What of a recording waits for the disk, all boxes of a recording together; boxes wait beyond that.
MAX_RECORDING_AHEAD_BYTES = 4 * MIB

#: Requests that a replay had no answer to and tells of one by one; those after are counted.
MAX_UNRECORDED = 50

#: A snapshot's world: names of layers and instances, not their content. A thousand of each are some 100 KiB.
MAX_WORLD_BYTES = 1 * MIB

#: Branches that one call of fork makes, in one transaction.
MAX_FORKS = 10_000

#: Descriptors that come with one order: a reply, three streams and a few control groups; or the sockets that a box with
#: a way out listens on, its log and its first process.
MAX_DESCRIPTORS = 40

#: Attempts of one exploration. A search of 10 workers by 100 steps makes 1,000; a policy that forks for ever ends here.
MAX_ATTEMPTS = 10_000

#: How long an exploration waits for the threads of strategies that it stopped. Calls into a branch end at once; what a
#: strategy does elsewhere, such as a request to a model, nobody can interrupt, and it can change no branch any more.
STOPPED_STRATEGY_S = 5.0

#: How often a running branch is asked whether it waits at its boundary.
BOUNDARY_POLL_S = 0.05

#: All files of one session's profile. A browser's, without its caches, has some ten megabytes.
MAX_PROFILE_BYTES = 256 * MIB

#: Files of one profile: a browser's with its caches has some thousand.
MAX_PROFILE_FILES = 20_000

#: Versions of a profile that are kept: enough to go back to before a sign-in that went wrong.
PROFILE_VERSIONS = 10

#: A file of cookies and storage that is merged entry by entry. What is longer is kept whole, as any other file.
MAX_STORAGE_STATE_BYTES = 8 * MIB

#: How long a lease is left alone without a load, a save or a hand-over, where others wait for it.
DEFAULT_LEASE_S = 3600.0

#: How often who waits for a lease looks without having been woken: for leases that have been held for too long.
LEASE_LOOK_S = 2.0

#: How long after a wake-up who waits looks a second time: the kernel tells of a close before it frees the lock.
LEASE_SETTLE_S = 0.02

#: Saves of one session that may wait for one branch: each names all files of the profile.
MAX_PENDING_SAVES = 100

#: One call out of a box: arguments of an action, or a message. What is larger belongs in a file.
MAX_CALL_BYTES = 1 * MIB

#: Calls of one box that are under way, or on their way in: threads of the user's process.
MAX_CALLS_AT_ONCE = 8

#: The same of all boxes of a session together: some 8 MB of stacks, and far below what a user may have of threads.
MAX_CALLS_OF_ALL = 512

#: Calls that a box may have under way whatever all others have: one that waits for mail, and one beside it.
CALLS_FOR_SURE = 2

#: How long a box may take to bring a whole call, and again to read the whole answer. Both are in memory at once where
#: nobody holds them up.
CALL_TRANSFER_S = 10.0

#: Connections that one box may make in a second, whatever its quota is: the warden hands each to the user's process, in
#: some 20 us. A box that makes more waits.
MAX_DOORWAY_CONNECTIONS_PER_S = 1000

#: Calls out of a box in a second, where its quota gives no bound.
DEFAULT_CALLS_PER_S = 100

#: Instances that live because of one box, where its quota gives no bound.
DEFAULT_CALL_INSTANCES = 16

#: Branches that live because of one box, where its quota gives no bound.
DEFAULT_CALL_BRANCHES = 16

#: What a box may write into messages and onto the board, itself and by what lives because of it, where its quota gives
#: no bound: the log keeps it. A few hundred thousand lines, or a screenshot for each of some hundred steps.
DEFAULT_CALL_MAIL_BYTES = 256 * MIB

#: What a message counts at least against that: its row, and what becomes of it.
MESSAGE_ROW_BYTES = 256

#: What a box may say of how far it is, as a message holds it: a line or a small record, not a result.
MAX_PROGRESS_BYTES = 16 * KIB

#: The body of a message: a page of text, a screenshot. What is larger goes into a file, and its name into the message.
MAX_MESSAGE_BYTES = 1 * MIB

#: Messages that wait at one instance, or at one of its handlers of events. A message has some 200 bytes there; a
#: recipient that is so far behind does not catch up, and its senders are to know.
MAX_MAILBOX = 100_000

#: Recipients of one event. Each is a row of its receipt; a tree of agents has some dozens.
MAX_RECIPIENTS = 1000

#: Subscriptions of one branch, as for `MAX_RECIPIENTS`.
MAX_SUBSCRIPTIONS = 1000

#: Subscriptions that one box may make from inside; patterns have wildcards.
MAX_BOX_SUBSCRIPTIONS = 32

#: The newest keys by which a branch knows that a message was sent before: as many as wait at one instance at most.
MAX_REMEMBERED_KEYS = 100_000

#: The newest messages whose receipts a branch can give once they are consumed. Each fork that has mail copies them.
MAX_RECEIPTS = 10_000

#: Delegations of a branch that are remembered: the newest. An older one is known to whoever still holds it.
MAX_DELEGATIONS = 10_000

#: How often a message is given to a handler that raises, before it is a dead letter.
MAX_DELIVERIES = 5

#: How long after a handler has raised it gets the message again: twice as long each time. Five take 3 s together.
RETRY_FIRST_S = 0.2

#: Messages that a handler gets in one turn of its instance, recorded together: other callers wait so long.
MAX_BATCH = 256

#: The same by the clock: a turn takes no further message after this.
BATCH_S = 0.05

#: The longest that a handler may take, or anybody wait for an answer.
MAX_REPLY_S = 30 * 86400.0

#: How long one call out of a box waits for a message: it is one of the few that a box may make at once.
MAX_RECEIVE_S = 60.0

#: How long a program in a box has a message that it has received, if it does not say otherwise: nobody sees it end.
DEFAULT_HOLD_S = 60.0

#: Messages, or entries of the board, that a box reads with one call, and bytes of them after which there are no more:
#: both are in the memory of the user's process meanwhile.
MAX_TAKE_ENTRIES = 100
MAX_TAKE_BYTES = 2 * MIB

#: Entries of the log that one call out of a box looks at for those that it may read.
MAX_TAKE_LOOKS = 2000

#: Threads that deliver messages of one process. Most wait for an instance that is busy, or a function that is slow, and
#: hold nothing else up; a thread is there while it has something to do.
MAX_CARRIERS = 1024

#: Entries of the board of one tree of branches.
MAX_BOARD = 100_000

#: Those of one author, where a box is what posts them: others are to have room.
MAX_BOARD_OF_ONE = 10_000

#: What a run is to do, as it is stored: a box's digest, an action and its arguments. What is larger goes into a file.
MAX_RUN_BYTES = 1 * MIB

#: What a run came to, as it is stored: as large as a message.
MAX_RUN_RESULT_BYTES = 1 * MIB

#: Runs of one tenant that wait, where it is given no bound. Each has some 3 KB in the dispatcher's memory.
DEFAULT_QUEUED = 20_000

#: Runs that are submitted in one call: one transaction, which others wait for.
MAX_RUNS_AT_ONCE = 1000

#: Runs that one run waits for, keys, rates and labels that it names: what a person writes, not what a program makes.
MAX_RUN_NAMES = 64

#: Forks of one failed run. Each is a branch, and a run of its own.
MAX_RUN_FORKS = 64

#: How deep runs may be forked, or submit others: what is deeper has lost its bearings.
MAX_RUN_DEPTH = 32

#: Attempts of one policy's `Retry`.
MAX_RUN_RETRIES = 1000

#: The longest that a policy may wait for anything.
MAX_RUN_WAIT_S = 365 * 86400.0

#: Priorities lie between this and its negative.
MAX_PRIORITY = 100

#: What one step of priority is worth in seconds of waiting: ten steps are ten minutes.
AGING_S = 60.0

#: How long a run waits for room, while smaller ones are started before it, until a node is kept free for it.
RESERVE_AFTER_S = 30.0

#: The most starts in the span of one rate: their times are in the dispatcher's memory.
MAX_RATE = 10_000

#: The longest span of a rate. Starts are remembered for as long, whatever spans have been asked for by then.
MAX_RATE_S = 86400.0

#: How long a lease of a node or of the dispatcher lasts unless it is renewed: some missed renewals are no death, and a
#: death is known before its user gives up.
LEASE_S = 15.0

#: After how long without a renewal its holder ends what it runs by itself.
LEASE_GIVE_UP_S = LEASE_S * 2 / 3

#: How often a holder renews its lease, and looks at those of others.
LEASE_BEAT_S = LEASE_S / 5

#: How often a node is told again of an attempt that it has said nothing of.
ORDER_AGAIN_S = 5.0

#: How long the dispatcher waits before it tries a store again that did not answer.
STORE_AGAIN_S = 1.0

#: Instances of one thing that is to be there: as many as a host holds idle.
MAX_WANTED = 1000

#: A file that says what is wanted: thousands of entries.
MAX_MANIFEST_BYTES = 1 * MIB

#: How deep it may be nested: what an action may be given, and what says so.
MAX_MANIFEST_DEPTH = 40

#: Messages that triggers look at in one transaction, for which other writers wait: each may start several runs.
MAX_HEARD = 50

#: After how long the clock is looked at again that people set: a tick is so late at most where it was set forward.
CLOCK_LOOK_S = 30.0

#: What of an error a run keeps.
MAX_RUN_ERROR = 4000

#: Changes that the dispatcher takes in, or starts that it makes, in one transaction.
MAX_ROUND = 500

#: Tenants that metrics tell by name: each is some hundred numbers of every scrape.
MAX_METERED_TENANTS = 20

#: Tenants of which metrics remember how often they were seen, to find out who comes most.
MAX_WATCHED_TENANTS = 1000

#: Events or effects that metrics read at a time: some milliseconds of the database's time.
METER_PAGE = 2000

#: Scrapes of metrics that are answered at once; Prometheus makes one at a time.
MAX_SCRAPES = 4

#: How long whoever scrapes may say nothing, or take nothing.
SCRAPE_IDLE_S = 5.0

#: How long a scrape may take altogether; Prometheus gives up after 10 s.
MAX_SCRAPE_S = 60.0

#: The addresses of a box's loopback that lead outside, but for their last number: `kibo.box.forwards`.
FORWARDS_NETWORK = "127.77.0."
