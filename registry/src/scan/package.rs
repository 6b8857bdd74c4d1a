use serde::{Deserialize, Serialize};

use crate::limits::{PACKAGE_TEXT_MAX, PACKAGES_MAX, UNREAD_MAX};

/// What manages a package. It decides how versions compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Deb,
    Apk,
    Rpm,
    Cargo,
    Npm,
    Pypi,
    Golang,
    /// What a program was made with, by its own word: a compiler, a toolkit.
    Generic,
}

/// A piece of software in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub kind: Kind,
    pub name: String,
    pub version: String,
    /// The name and the version of the source package, where they are others.
    pub source: Option<(String, String)>,
    pub architecture: String,
    pub license: String,
    /// The file that says so.
    pub path: String,
}

/// The distribution of an image, by its os-release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Distribution {
    /// As in `debian`.
    pub id: String,
    /// As in `12`.
    pub version: String,
    pub title: String,
}

/// Everything that was found in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    pub distribution: Option<Distribution>,
    pub packages: Vec<Package>,
    /// What could not be read, in words: then the list of packages is not all.
    pub unread: Vec<String>,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Deb,
        Self::Apk,
        Self::Rpm,
        Self::Cargo,
        Self::Npm,
        Self::Pypi,
        Self::Golang,
        Self::Generic,
    ];

    /// The type in package URLs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Apk => "apk",
            Self::Rpm => "rpm",
            Self::Cargo => "cargo",
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Golang => "golang",
            Self::Generic => "generic",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Package {
    /// A package without more than a name and a version; `None` when these are no text of a
    /// package.
    pub fn new(kind: Kind, name: &str, version: &str) -> Option<Self> {
        let (name, version) = (name.trim(), version.trim());
        let is_text = |text: &str| {
            let printable = text.chars().all(|c| !c.is_control() && c != '\u{2028}');
            !text.is_empty() && text.len() <= PACKAGE_TEXT_MAX && printable
        };
        (is_text(name) && is_text(version)).then(|| Self {
            kind,
            name: name.to_owned(),
            version: version.to_owned(),
            source: None,
            architecture: String::new(),
            license: String::new(),
            path: String::new(),
        })
    }

    /// With a license and an architecture, each on one line and of limited length.
    pub fn described(mut self, license: &str, architecture: &str) -> Self {
        (self.license, self.architecture) = (one_line(license), one_line(architecture));
        self
    }

    /// With the source package that it was built of, where that differs.
    pub fn built_of(mut self, name: &str, version: &str) -> Self {
        let differs = name != self.name || version != self.version;
        let source = Self::new(self.kind, name, version).filter(|_| differs);
        self.source = source.map(|source| (source.name, source.version));
        self
    }
}

impl Inventory {
    /// Notes that something was not read.
    pub fn unread(&mut self, what: impl Into<String>) {
        let what = one_line(&what.into());
        if self.unread.len() < UNREAD_MAX && !self.unread.contains(&what) {
            self.unread.push(what);
        }
    }

    /// In one order, each once, and within the limit.
    pub fn settle(&mut self) {
        fn identity(package: &Package) -> (Kind, &str, &str, &str) {
            (package.kind, &package.name, &package.version, &package.architecture)
        }
        self.packages.sort_by(|one, other| {
            identity(one).cmp(&identity(other)).then_with(|| one.path.cmp(&other.path))
        });
        self.packages.dedup_by(|one, other| identity(one) == identity(other));
        if self.packages.len() > PACKAGES_MAX {
            self.packages.truncate(PACKAGES_MAX);
            self.unread(format!("it has more than {PACKAGES_MAX} packages"));
        }
    }
}

/// Text of an image as one line of limited length.
pub(crate) fn one_line(text: &str) -> String {
    let shown = text.trim().chars().filter(|c| !c.is_control() && *c != '\u{2028}');
    shown.take(PACKAGE_TEXT_MAX).collect()
}

/// The name of a package of Python as the index compares it.
///
/// # Spec
/// PEP 503, "Normalized Names".
pub(super) fn pypi_name(name: &str) -> String {
    let mut normal = String::new();
    for c in name.trim().chars() {
        let c = if matches!(c, '-' | '_' | '.') { '-' } else { c.to_ascii_lowercase() };
        if c != '-' || !normal.ends_with('-') {
            normal.push(c);
        }
    }
    normal
}
