//! Every limit of a registry and of its client, with the reason for its number.

use std::time::Duration;

/// What a registry gives to its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one blob: as much as ECR takes.
    pub blob_bytes_max: u64,
    /// Uploads that one user may have open at once, unless a quota says otherwise: twenty pushes of
    /// three blobs each.
    pub uploads_per_user_max: usize,
    /// An upload without a request for this long is discarded: a lunch break.
    pub upload_idle_time_max: Duration,
    /// How often everything is read again, to find what a disk has lost or changed.
    pub scrub_interval: Duration,
    /// And how fast: a tenth of what a slow disk reads, so that requests do not notice.
    pub scrub_bytes_per_second: u64,
    /// How often unused blobs are collected. A pass reads all records: 2.5 s of a core for a
    /// hundred thousand manifests.
    pub collect_interval: Duration,
    /// How long a blob is kept that no manifest names: a client may push a manifest of it later,
    /// and one that pushes an image of many gigabytes takes its time.
    pub collect_grace: Duration,
    /// How often retention rules are applied.
    pub retain_interval: Duration,
    /// How long a manifest must not have been pushed or pulled before retention deletes it or its
    /// tags, or it makes way for what an upstream sends: a client may push an index of it later, or
    /// pull what it names.
    pub retain_grace: Duration,
    /// Connections at once: each may hold a page or some hundred kilobytes of a blob. One without a
    /// request makes room for another; while all have one, more wait to be accepted.
    pub connections_max: usize,
    /// Connections of one address, which is all clients behind one proxy: as many as the control
    /// plane gives.
    pub connections_of_one_address_max: usize,
    /// How long the head of a request may take, and how long an idle connection is kept.
    pub header_time_max: Duration,
    /// How long a body may pause, in either direction.
    pub idle_time_max: Duration,
    /// How long requests in progress may take to finish after shutdown.
    pub drain_time_max: Duration,
    /// The lifetime of a token: one push of a large image.
    pub token_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob_bytes_max: 50 << 30,
            uploads_per_user_max: 64,
            upload_idle_time_max: Duration::from_secs(3600),
            scrub_interval: Duration::from_secs(7 * 24 * 3600),
            scrub_bytes_per_second: 16 << 20,
            collect_interval: Duration::from_secs(3600),
            collect_grace: Duration::from_secs(3600),
            retain_interval: Duration::from_secs(3600),
            retain_grace: Duration::from_secs(3600),
            connections_max: 1024,
            connections_of_one_address_max: 256,
            header_time_max: Duration::from_secs(30),
            idle_time_max: Duration::from_secs(30),
            drain_time_max: Duration::from_secs(10),
            token_time: Duration::from_secs(300),
        }
    }
}

/// Descriptors for each connection and the blob that it moves, for the metadata and the log. Where
/// there are fewer, there are fewer connections.
pub(crate) const DESCRIPTORS_WANTED: u64 = 2 * 1024 + 256;

// Both ends

/// Bytes of a manifest: what the distribution-spec asks registries to take; no tool writes larger
/// ones.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Parameters of a query: no request of the API has more.
pub(crate) const QUERY_PARAMETERS_MAX: usize = 64;

// Access

/// Longer passwords are rejected before they cost a hash.
pub(crate) const PASSWORD_BYTES_MAX: usize = 256;
/// Shorter passwords can be guessed.
pub(crate) const PASSWORD_BYTES_MIN: usize = 8;
/// Each password check takes 19 MiB and a core for some 20 ms, on purpose: checks run one at a
/// time, and this many wait, a second or two.
pub(crate) const QUEUED_LOGINS_MAX: usize = 64;
/// Of those, from one address: its other logins wait for these, and delay no other address.
pub(crate) const QUEUED_LOGINS_OF_ONE_ADDRESS_MAX: usize = 4;
/// How long a login waits for its turn: as long as a user does.
pub(crate) const LOGIN_QUEUE_TIME_MAX: Duration = Duration::from_secs(10);
/// Wrong passwords in a window, before logins are no longer checked: for one name from one address
/// prefix, as a user with a wrong password in a script has; for all names from one address prefix,
/// which may be an office; and for one name from all addresses at which it never logged in.
pub(crate) const FAILED_LOGINS_OF_NAME_AT_ADDRESS_MAX: u32 = 10;
pub(crate) const FAILED_LOGINS_OF_ADDRESS_MAX: u32 = 50;
pub(crate) const FAILED_LOGINS_OF_NAME_MAX: u32 = 50;
pub(crate) const FAILED_LOGINS_WINDOW: Duration = Duration::from_secs(60);
/// Budgets that are counted at once, some 100 bytes each. Of more, the least used are forgotten.
pub(crate) const FAILED_LOGINS_TRACKED_MAX: usize = 10_000;
/// Addresses that are remembered for having logged in.
pub(crate) const KNOWN_ADDRESSES_MAX: usize = 10_000;
/// Robot accounts of one user: one for each pipeline and machine.
pub(crate) const ROBOTS_PER_USER_MAX: usize = 100;
/// Repositories that a robot account may be limited to: they are in each of its tokens.
pub(crate) const ROBOT_REPOSITORIES_MAX: usize = 32;
/// A robot account holds for a quarter when nothing else is asked for, and for a year at most, as a
/// credential of the control plane does.
pub(crate) const ROBOT_TIME_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);
pub(crate) const ROBOT_TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
pub(crate) const ROBOT_TIME_MIN: Duration = Duration::from_secs(60);
/// The last use of a robot account is written down once in so long.
pub(crate) const ROBOT_USE_NOTED_AFTER: Duration = Duration::from_secs(60);
/// Repositories that the refusal to remove their owner names.
pub(crate) const REPOSITORIES_NAMED: usize = 3;
/// The lifetime of any token: one push or pull.
pub(crate) const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// The clocks of two machines of one platform differ by less.
pub(crate) const CLOCK_SKEW_SECONDS_MAX: u64 = 30;
/// Characters of a token: enough for [`SCOPES_MAX`] scopes, and a quarter of a request's head.
pub(crate) const TOKEN_CHARS_MAX: usize = 16 << 10;
/// Scopes of a token: a push names two or three repositories, and one that mounts blobs from others
/// some more. With the longest names, a token for this many still fits in [`TOKEN_CHARS_MAX`].
pub(crate) const SCOPES_MAX: usize = 32;
/// A form with user, password and scopes.
pub(crate) const TOKEN_FORM_BYTES_MAX: usize = 16 << 10;

/// Characters of the pattern of a policy: as many as the name of a repository has.
pub(crate) const PATTERN_CHARS_MAX: usize = 255;
/// Operators of one registry: more than a company has.
pub(crate) const OPERATORS_MAX: usize = 100;
/// How long a password that was right need not be checked again, while its account is as it was:
/// as long as a token holds.
pub(crate) const VERIFIED_LOGIN_TIME: Duration = Duration::from_secs(300);
/// Such passwords, some 150 bytes each. More are checked each time.
pub(crate) const VERIFIED_LOGINS_MAX: usize = 10_000;
/// Organisations, teams and policies of one registry, all of which are in memory: some hundred
/// bytes each.
pub(crate) const ORGANISATIONS_MAX: usize = 10_000;
pub(crate) const TEAMS_MAX: usize = 10_000;
pub(crate) const POLICIES_MAX: usize = 10_000;
/// Policies of one account: each request to its repositories looks at all.
pub(crate) const POLICIES_OF_ACCOUNT_MAX: usize = 500;
/// Members of a team, which are one record.
pub(crate) const TEAM_MEMBERS_MAX: usize = 1000;

// Storage

/// Open uploads of all users: each is a file and some hundred bytes of memory.
pub(crate) const OPEN_UPLOADS_MAX: usize = 4096;
/// Keys that one transaction deletes: the store allows 100 operations.
pub(crate) const DELETED_PER_TRANSACTION: usize = 90;
/// Bytes of the records that one transaction hands over: the store allows a megabyte.
pub(crate) const HANDED_OVER_BYTES_MAX: usize = 512 << 10;
/// An upload that had no request for this long makes room for another of its account, where too
/// many are open: a client that is at work sends something more often.
pub(crate) const EVICTED_AFTER: Duration = Duration::from_secs(60);
/// Space that is kept for deletions on a full disk: twice the log that the database writes before
/// it starts to reuse it; and on a small disk this part of what is free.
pub(crate) const RESERVE_BYTES_MAX: u64 = 8 << 20;
pub(crate) const RESERVE_SHARE: u64 = 8;
/// How often a reserve that was given back is taken again, if there is space.
pub(crate) const RESERVE_INTERVAL: Duration = Duration::from_secs(60);
/// Digests share this many locks. Adding a blob holds one while a file is synced, and the begin of
/// a collection waits for each: enough that two requests rarely meet.
pub(crate) const DIGEST_LOCKS: usize = 1024;
/// Blobs that a collection deletes at once, in one commit, and its pause after them: requests wait
/// for the disk no longer than for the commit of another request.
pub(crate) const COLLECT_BATCH: usize = 32;
pub(crate) const COLLECT_PAUSE: Duration = Duration::from_millis(10);
/// The last pull of a manifest is written down once in so long: rules count days.
pub(crate) const PULL_NOTED_AFTER: Duration = Duration::from_secs(3600);
/// How often pulls are written down, together, and how many manifests are remembered until then;
/// pulls of more are forgotten. Some 200 bytes each.
pub(crate) const PULLS_NOTED_EVERY: Duration = Duration::from_secs(30);
pub(crate) const PULLS_REMEMBERED_MAX: usize = 20_000;
/// Of those, how many at once, for the database commits them together.
pub(crate) const PULLS_WRITTEN_AT_ONCE: usize = 64;
/// Bytes of manifests that are kept in memory: those of some thousand images, which is what a
/// cluster pulls of a registry in a day; and of one, so that none takes the place of many.
pub(crate) const CACHED_MANIFESTS_BYTES_MAX: usize = 8 << 20;
pub(crate) const CACHED_MANIFEST_BYTES_MAX: usize = 128 << 10;
/// Manifests that are asked for while retention decides: of more, it deletes none.
pub(crate) const ASKED_FOR_MAX: usize = 100_000;
/// Bytes of one record in a backup: the store's limit, as JSON.
pub(crate) const RECORD_LINE_BYTES_MAX: u64 = 1 << 20;
/// Records that one transaction restores, and transactions at once, which the store commits
/// together.
pub(crate) const RESTORED_PER_TRANSACTION: usize = 50;
pub(crate) const RESTORED_AT_ONCE: usize = 32;
/// Bytes of the description of a backup.
pub(crate) const BACKUP_BYTES_MAX: u64 = 64 << 10;
/// How often a manifest is added or deleted anew because another request has changed it or its tag
/// meanwhile.
pub(crate) const PUT_TRIES_MAX: usize = 64;
/// Bytes that a scrub reads at once, and how often it is asked whether one is due.
pub(crate) const SCRUB_CHUNK_BYTES: u64 = 1 << 20;
pub(crate) const SCRUB_CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// Pushed manifests that wait to be surveyed, and that wait to be scanned, some 100 bytes each.
/// Those beyond are found by a walk.
pub(crate) const PUSHED_QUEUE: usize = 4096;
/// When a registry that starts looks for what was pushed and not read: after it has begun to serve.
pub(crate) const SURVEY_DELAY: Duration = Duration::from_secs(2);
/// How often it is noted until when all that was pushed has been read, and how long before that the
/// record of a push may be there while the push is not in the queue.
pub(crate) const SURVEY_NOTED_EVERY: Duration = Duration::from_secs(60);
pub(crate) const SURVEY_SKEW: Duration = Duration::from_secs(60);
/// What reading one Wasm image may cost, for it holds up others: the largest with an interpreter in
/// it have some 100 MB in 20,000 files, and take half a second.
pub(crate) const SURVEY_TIME_MAX: Duration = Duration::from_secs(5);
pub(crate) const SURVEY_LAYER_BYTES_MAX: u64 = 1 << 30;
pub(crate) const SURVEY_LAYER_ENTRIES_MAX: u64 = 200_000;
/// A program is in memory while it is read. Those of Python have 40 MB.
pub(crate) const SURVEY_PROGRAM_BYTES_MAX: u64 = 64 << 20;
/// What is kept of an image, in memory: thirty imports of a component have a kilobyte.
pub(crate) const SURVEY_RECORD_BYTES_MAX: usize = 16 << 10;
pub(crate) const SURVEY_LABELS_MAX: usize = 64;
/// Keys of one page of a scan: some hundred kilobytes.
pub(crate) const SCAN_PAGE: usize = 1000;
/// Repositories share this many locks: enough that two pushes rarely meet.
pub(crate) const REPOSITORY_LOCKS: usize = 64;

// Server

/// Connections to the admin socket: the administrator and their scripts, which connections over TCP
/// must not keep out.
pub(crate) const ADMIN_CONNECTIONS_MAX: usize = 8;
/// A password, or one word of JSON.
pub(crate) const ADMIN_BODY_BYTES_MAX: usize = 4 << 10;
/// Repositories, and accounts, that metrics tell apart: as many as a dashboard takes.
pub(crate) const METRIC_NAMES_MAX: usize = 1000;
/// Bytes of a file of the access log, and how many files there are: a day or some of a busy
/// registry.
pub(crate) const ACCESS_LOG_BYTES_MAX: u64 = 64 << 20;
pub(crate) const ACCESS_LOG_FILES: usize = 5;
/// Lines that wait for the disk: two seconds of 2,000 requests.
pub(crate) const ACCESS_LOG_QUEUE: usize = 4096;
/// Characters of a path, or of the name of a client's program, in a line of the access log.
pub(crate) const LOGGED_CHARS_MAX: usize = 512;
/// How far the requests of a client may be ahead of its rate: the layers of a push come at once.
pub(crate) const RATE_BURST_TIME: Duration = Duration::from_secs(10);
/// How long a request waits for its turn before it is refused: many clients give up when they are.
pub(crate) const RATE_DELAY_MAX: Duration = Duration::from_secs(2);
/// Clients whose requests are counted at once, some 100 bytes each.
pub(crate) const RATE_CLIENTS_MAX: usize = 10_000;
/// Bytes of an answer to a remote administrator: ten thousand repositories with their rules.
pub(crate) const ADMIN_ANSWER_BYTES_MAX: usize = 16 << 20;
/// How often a request is sent again to a registry that asks to wait, and for how long it may ask:
/// longer is not a rate but a lock after wrong passwords, which is told at once.
pub(crate) const RATE_RETRIES_MAX: u32 = 5;
pub(crate) const RATE_WAIT_MAX: Duration = Duration::from_secs(5);
/// A change of a team: a thousand names of 63 characters.
pub(crate) const TEAM_BODY_BYTES_MAX: usize = 128 << 10;
/// Repositories in one answer to the administrator: a megabyte or two.
pub(crate) const ADMIN_LIST_MAX: usize = 10_000;
/// Patterns of tags that an immutable repository excepts: each push of a tag looks at all.
pub(crate) const IMMUTABLE_EXCEPTIONS_MAX: usize = 32;
/// Rules of one name: each tag is compared with all.
pub(crate) const RETENTION_RULES_MAX: usize = 32;
/// Tags and manifests that the answer to a retention names.
pub(crate) const EXPIRED_LISTED_MAX: usize = 10_000;
/// The longest grace time that the administrator can ask for.
pub(crate) const GRACE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Webhooks of one account, each of which may take an event of a transaction, and of all.
pub(crate) const WEBHOOKS_OF_ACCOUNT_MAX: usize = 20;
pub(crate) const WEBHOOKS_MAX: usize = 1000;
pub(crate) const WEBHOOK_URL_CHARS_MAX: usize = 2048;
/// Events that wait for one webhook, half a kilobyte each, in memory as well. Later ones are not
/// kept, and counted.
pub(crate) const OUTBOX_EVENTS_MAX: u64 = 1000;
/// Tries of one webhook that are listed.
pub(crate) const DELIVERIES_KEPT: usize = 20;
/// Webhooks that are delivered to at once: slow receivers keep few others waiting.
pub(crate) const DELIVERIES_AT_ONCE: usize = 16;
/// Of those, to webhooks of one account: a receiver that takes its time keeps no other account
/// waiting.
pub(crate) const DELIVERIES_OF_ACCOUNT_AT_ONCE: usize = 4;
/// Events that one webhook gets before the next has its turn.
pub(crate) const DELIVERIES_IN_A_ROW: usize = 10;
/// How long a receiver may take to answer: it has to take an event, and can work afterwards.
pub(crate) const DELIVERY_TIME_MAX: Duration = Duration::from_secs(10);
/// The pause after a try that has failed; each following one is twice as long, up to a limit.
pub(crate) const DELIVERY_PAUSE_MIN: Duration = Duration::from_secs(1);
pub(crate) const DELIVERY_PAUSE_MAX: Duration = Duration::from_secs(600);
/// How long an event is tried: a receiver that is down over night gets it.
pub(crate) const EVENT_KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Upstreams, twice as many as ECR has pull-through rules: each pull looks at all of their names.
pub(crate) const UPSTREAMS_MAX: usize = 100;
/// Patterns of one of them.
pub(crate) const UPSTREAM_PATTERNS_MAX: usize = 32;
/// How long a tag can be taken for current.
pub(crate) const UPSTREAM_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Tags that are known to have been asked for, some 150 bytes each; of more those stay that were
/// asked for so lately.
pub(crate) const UPSTREAM_TAGS_KEPT: usize = 10_000;
pub(crate) const UPSTREAM_TAG_TIME_KEPT: Duration = Duration::from_secs(60);
/// How long an upstream may take for a manifest, and for saying whether a tag has moved, when what
/// is kept could be served: a client waits for as long.
pub(crate) const UPSTREAM_MANIFEST_TIME_MAX: Duration = Duration::from_secs(20);
pub(crate) const UPSTREAM_RECHECK_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of the definition of an upstream or a replication: a key of Google as the password has
/// 2,300.
pub(crate) const REMOTE_BODY_BYTES_MAX: usize = 32 << 10;
/// How long another registry may pause, and how often in a row a blob goes on where it broke off.
/// Docker and containerd repeat a pull by themselves, and a replication is tried again.
pub(crate) const REMOTE_IDLE_TIME_MAX: Duration = Duration::from_secs(15);
pub(crate) const REMOTE_RETRIES_MAX: u32 = 3;
/// How long one change may be replicated, which may be all that there is, before others have their
/// turn and it begins anew: what was sent is not sent again.
pub(crate) const REPLICATION_TIME_MAX: Duration = Duration::from_secs(3600);
/// How long a change is tried that the other registry refuses. One that does not answer is waited
/// for.
pub(crate) const REPLICATION_GIVEN_UP_AFTER: Duration = Duration::from_secs(3600);
/// Tags of one manifest that a comparison of everything looks at.
pub(crate) const REPLICATED_TAGS_MAX: usize = 1000;
/// How long an upstream that did not answer is left alone: twice as long each time.
pub(crate) const UPSTREAM_HOLD_MIN: Duration = Duration::from_secs(1);
pub(crate) const UPSTREAM_HOLD_MAX: Duration = Duration::from_secs(60);
/// The same for one that asks to wait and does not say how long, and the longest that it may say:
/// the limits of Docker Hub are for six hours.
pub(crate) const UPSTREAM_RATE_HOLD: Duration = Duration::from_secs(60);
pub(crate) const UPSTREAM_RATE_HOLD_MAX: Duration = Duration::from_secs(6 * 3600);
/// Blobs that are fetched at once, those of one upstream, which may stall, and those that wait.
pub(crate) const UPSTREAM_FETCHES_MAX: usize = 64;
pub(crate) const UPSTREAM_FETCHES_OF_ONE_MAX: usize = 32;
pub(crate) const UPSTREAM_QUEUE: usize = 256;
/// Manifests among which those are found that were not pulled for the longest time: 20 MB.
pub(crate) const EVICTED_MANIFESTS_MAX: usize = 100_000;
/// Bytes of a file with a key: those of cosign have seven hundred.
pub(crate) const KEY_FILE_BYTES_MAX: usize = 16 << 10;
/// What decrypting a key may take, of memory and work: cosign asks for 64 MiB.
pub(crate) const KEY_DERIVATION_BYTES_MAX: u64 = 256 << 20;
/// Signatures of one manifest of them, their bytes in all, and such manifests of one image: each
/// pull of an image that has to be signed may read all.
pub(crate) const SIGNATURES_MAX: usize = 64;
pub(crate) const SIGNATURE_BYTES_MAX: u64 = 1 << 20;
pub(crate) const SIGNATURE_MANIFESTS_MAX: usize = 16;
/// Policies of signatures, their keys, and the bytes of these.
pub(crate) const SIGNATURE_POLICIES_MAX: usize = 1000;
pub(crate) const SIGNATURE_KEYS_MAX: usize = 16;
pub(crate) const KEYS_BODY_BYTES_MAX: usize = 64 << 10;
/// What scanning one image may cost: 4 GiB in 500,000 files is twice what the largest images of
/// interpreters and of machine learning have, and takes some twenty seconds.
pub(crate) const SCAN_TIME_MAX: Duration = Duration::from_secs(60);
pub(crate) const SCAN_BYTES_MAX: u64 = 4 << 30;
pub(crate) const SCAN_ENTRIES_MAX: u64 = 500_000;
/// A file that lists packages is in memory while it is read: the database of rpm of a large image
/// has 60 MB, package-lock.json of the largest projects 5.
pub(crate) const SCANNED_FILE_BYTES_MAX: u64 = 96 << 20;
/// A lock file takes ten times its length while it is read: package-lock.json of the largest
/// projects has 5 MB.
pub(crate) const LOCK_FILE_BYTES_MAX: u64 = 16 << 20;
/// Packages that all files of an image list: those of npm are in two or three of them.
pub(crate) const LISTED_PACKAGES_MAX: usize = 60_000;
/// So is a program, one at a time: kubelet has 80 MB.
pub(crate) const SCANNED_PROGRAM_BYTES_MAX: u64 = 128 << 20;
/// Files of an image that list packages: each module of npm is one.
pub(crate) const SCANNED_FILES_MAX: usize = 50_000;
/// Packages of an image. A full Debian has 3,000, a large application of npm 4,000. They are in
/// memory while an image is scanned, and as JSON one answer.
pub(crate) const PACKAGES_MAX: usize = 10_000;
/// Bytes of a name, a version or a license: paths of modules of Go have up to 150.
pub(crate) const PACKAGE_TEXT_MAX: usize = 256;
/// Things that could not be read which are named; the image is not read completely with one.
pub(crate) const UNREAD_MAX: usize = 16;
/// What tells a program from other files.
pub(crate) const PROGRAM_HEAD_BYTES: u64 = 8;
/// The list of crates in a program, unpacked: one of 1,000 crates has 100 KB.
pub(crate) const AUDIT_DATA_BYTES_MAX: u64 = 8 << 20;
/// The list of modules in a program of Go: one of 1,000 modules has 100 KB.
pub(crate) const GO_BUILD_INFO_BYTES_MAX: usize = 8 << 20;
/// Components inside each other: compositions have three or four levels.
pub(crate) const WASM_DEPTH_MAX: usize = 16;
/// The header of a package in a database of rpm: a kernel with its files has 2 MB.
pub(crate) const RPM_HEADER_BYTES_MAX: usize = 16 << 20;
/// Levels of a table of SQLite: five hold a billion rows.
pub(crate) const SQLITE_DEPTH_MAX: usize = 20;
/// How often the records of images that no repository has any more are removed.
pub(crate) const SCAN_PRUNE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// What is kept of a vulnerability: the longest lists have 1,000 packages, and some hundred names.
pub(crate) const AFFECTED_MAX: usize = 5_000;
pub(crate) const ALIASES_MAX: usize = 200;
pub(crate) const SUMMARY_CHARS_MAX: usize = 200;
pub(crate) const VERSIONS_LISTED_MAX: usize = 10_000;
/// Findings of one package: the kernel of a distribution has 4,000.
pub(crate) const FINDINGS_OF_PACKAGE_MAX: usize = 10_000;
/// Vulnerabilities in one part of an import, and its bytes: the longest lists of versions have
/// some hundred kilobytes each.
pub(crate) const ADVISORIES_PER_BODY_MAX: usize = 1_000;
pub(crate) const ADVISORIES_BODY_BYTES_MAX: usize = 32 << 20;
/// After which silence an import is given up for another one: its parts come one after another.
pub(crate) const IMPORT_IDLE_MAX: Duration = Duration::from_secs(60);
/// URLs that an update reads: OSV has some forty ecosystems.
pub(crate) const VULNERABILITY_URLS_MAX: usize = 256;
/// How old data may be that calls an image clean: OSV is published every hour, and every ecosystem
/// of it has a new record in a month.
pub(crate) const VULNERABILITY_IMPORT_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
pub(crate) const VULNERABILITY_DATA_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Findings in a list, and those that are looked at for it: not all of them may be read.
pub(crate) const FINDINGS_LISTED_MAX: usize = 1_000;
pub(crate) const FINDINGS_LOOKED_AT_MAX: usize = 20_000;
/// What decides about pulls under a policy of scans, in memory: a Debian has some hundred findings
/// of 200 bytes, so it is that of a hundred images. How long it is good, for data becomes old.
pub(crate) const DECISIVE_REPORTS_BYTES_MAX: usize = 8 << 20;
pub(crate) const DECISIVE_REPORT_BYTES_MAX: usize = 1 << 20;
pub(crate) const DECISIVE_REPORT_TIME_MAX: Duration = Duration::from_secs(60);
/// Policies of scans, and waivers of each.
pub(crate) const SCAN_POLICIES_MAX: usize = 1_000;
pub(crate) const WAIVERS_MAX: usize = 200;
/// Files in an archive of vulnerabilities, and bytes of one: npm has 250,000, and the longest
/// records some megabytes.
pub(crate) const ZIP_ENTRIES_MAX: u64 = 4_000_000;
pub(crate) const ZIP_ENTRY_BYTES_MAX: u64 = 64 << 20;
/// Searches at once: each keeps a core busy while it looks.
pub(crate) const SEARCHES_MAX: usize = 2;
/// Images that a search finds, and manifests that it looks at: some tenths of a second.
pub(crate) const FOUND_IMAGES_MAX: usize = 200;
pub(crate) const SEARCHED_MANIFESTS_MAX: usize = 200_000;
/// Tags or manifests in one page of an answer to the administrator: some hundred kilobytes.
pub(crate) const ADMIN_PAGE_MAX: usize = 1000;
/// Tags that are listed with one manifest: a line of a terminal or two.
pub(crate) const TAGS_LISTED_MAX: usize = 16;
/// Bytes and time that a client may still send after an error, so that it comes to read the answer.
pub(crate) const DISCARDED_BYTES_MAX: usize = 1 << 20;
pub(crate) const DISCARDED_TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes handed to the disk at once: a connection holds one batch while the next arrives.
pub(crate) const UPLOAD_BATCH_BYTES: usize = 128 << 10;
/// The same for long bodies, of which so many at once have it: each batch wakes a thread and its
/// task, which costs a fifth of what 128 KiB do.
pub(crate) const UPLOAD_LARGE_BATCH_BYTES: usize = 512 << 10;
pub(crate) const UPLOAD_LARGE_BATCHES: usize = 64;
/// Bytes read from a blob at once: a connection holds two of these.
pub(crate) const DOWNLOAD_CHUNK_BYTES: u64 = 256 << 10;
/// Blobs or manifests that one manifest may name: each is a look-up. Docker stops at 127 layers.
pub(crate) const MANIFEST_LINKS_MAX: usize = 8192;
/// Tags that one `PUT` may set; the specification asks for ten.
pub(crate) const TAGS_PER_PUT_MAX: usize = 16;
/// The entry of a manifest in the list of referrers, as JSON: every reader of the list gets it.
pub(crate) const REFERRER_BYTES_MAX: usize = 64 << 10;
/// Entries of one page of a list: a page is one answer from memory.
pub(crate) const LIST_PAGE_MAX: usize = 1000;
/// Referrers of one page, and their bytes, because annotations can be long: every reader of a list
/// holds one page.
pub(crate) const REFERRERS_PAGE_MAX: usize = 200;
pub(crate) const REFERRERS_PAGE_BYTES_MAX: usize = 1 << 20;
/// Repositories read for one page of the catalogue, readable for its principal or not.
pub(crate) const CATALOG_SCANNED_MAX: usize = 10_000;
/// How often abandoned uploads are looked for: often enough for an hour's limit.
pub(crate) const UPLOAD_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

// Client

/// How long connecting and the TLS handshake may each take: registries answer from the next machine
/// or from another continent, and slower ones do not answer at all.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Idle connections kept for each origin: as many as one push uses at once.
pub(crate) const IDLE_CONNECTIONS_MAX: usize = 4;
/// Redirects of one request: a blob may be one redirect away, in object storage, and that one may
/// have moved; longer chains are loops.
pub(crate) const REDIRECTS_MAX: usize = 5;
/// Bytes of an error or of a token response: registries write some kilobytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The lifetime of a token whose response does not state it, by the distribution-spec.
pub(crate) const TOKEN_SECONDS_DEFAULT: u64 = 60;
/// Characters of a registry's message that are printed: some lines of a terminal.
pub(crate) const PRINTED_CHARS_MAX: usize = 300;
/// Bytes of a page of tags: 1,000 tags of 128 characters, with room.
pub(crate) const TAG_PAGE_BYTES_MAX: usize = 1 << 20;
/// Pages of tags that are read: a million tags.
pub(crate) const TAG_PAGES_MAX: usize = 1000;
/// Blobs that move at once: enough to fill a link, few enough for a disk and a small registry.
pub(crate) const PARALLEL_TRANSFERS: usize = 3;
/// Manifests below one reference; an index of all platforms has some twenty.
pub(crate) const IMAGE_MANIFESTS_MAX: usize = 256;
/// Blobs below one reference. Docker stops at 127 layers for each platform.
pub(crate) const IMAGE_BLOBS_MAX: usize = 4096;
/// Indexes inside each other: no tool nests deeper.
pub(crate) const INDEX_DEPTH_MAX: usize = 4;
/// The pause before the first retry; each following pause is twice as long.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A try that moved this much counts as progress, and the next failure as the first.
pub(crate) const RETRY_PROGRESS_BYTES: u64 = 64 << 10;
/// Bytes handed to the sink of a pull at once.
pub(crate) const PULL_BATCH_BYTES: usize = 256 << 10;
/// Bytes read from the source of a push at once, and chunks waiting for the connection: a megabyte
/// for each blob in progress.
pub(crate) const PUSH_CHUNK_BYTES: usize = 256 << 10;
pub(crate) const PUSH_CHUNKS_QUEUED: usize = 4;
/// How long a pass over all that a registry has may take, with its pauses.
pub(crate) const ADMIN_PASS_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Pages of a list that are read: a million tags.
pub(crate) const ADMIN_PAGES_MAX: usize = 1000;
/// How long a registry on this machine may take to answer its administrator.
pub(crate) const ADMIN_ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
