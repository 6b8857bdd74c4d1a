CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY, until INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS image (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    platform TEXT NOT NULL,
    read INTEGER NOT NULL,
    distribution TEXT NOT NULL,
    unread TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS located (
    image INTEGER NOT NULL,
    repository TEXT NOT NULL,
    PRIMARY KEY (image, repository)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS package (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    base TEXT NOT NULL,
    release TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    source TEXT NOT NULL,
    source_version TEXT NOT NULL,
    architecture TEXT NOT NULL,
    license TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS package_identity ON package
    (name, version, kind, base, release, source, source_version, architecture, license);
CREATE TABLE IF NOT EXISTS contained (
    image INTEGER NOT NULL,
    package INTEGER NOT NULL,
    path TEXT NOT NULL,
    PRIMARY KEY (image, package)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contained_package ON contained (package);
CREATE TABLE IF NOT EXISTS ecosystem (
    base TEXT PRIMARY KEY,
    advisories INTEGER NOT NULL,
    imported INTEGER NOT NULL,
    modified INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS url (url TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS advisory (
    id INTEGER PRIMARY KEY,
    base TEXT NOT NULL,
    name TEXT NOT NULL,
    aliases TEXT NOT NULL,
    summary TEXT NOT NULL,
    severity INTEGER NOT NULL,
    score INTEGER,
    modified INTEGER NOT NULL,
    staged INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS advisory_base ON advisory (staged, base);
CREATE INDEX IF NOT EXISTS advisory_severity ON advisory (severity);
CREATE TABLE IF NOT EXISTS affected (
    base TEXT NOT NULL,
    release TEXT NOT NULL,
    package TEXT NOT NULL,
    advisory INTEGER NOT NULL,
    ranges TEXT NOT NULL,
    versions TEXT NOT NULL,
    staged INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS affected_package ON affected (package, base);
CREATE INDEX IF NOT EXISTS affected_base ON affected (staged, base, release);
CREATE TABLE IF NOT EXISTS finding (
    package INTEGER NOT NULL,
    advisory INTEGER NOT NULL,
    fixed TEXT,
    PRIMARY KEY (package, advisory)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS finding_advisory ON finding (advisory);
