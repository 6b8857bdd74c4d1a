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
