//! Which software the images of a registry have, and which vulnerabilities.

use anyhow::ensure;
use clap::{Subcommand, ValueEnum};
use registry::{Admin, Finding, FindingSearch, SbomFormat, ScanReport, Severity, SeverityCounts};

use crate::{
    failure::Advice,
    output::{self, Output, line, notice, print_table, printable},
    serve::block_on,
    verbs::word,
};

/// Print the bill of material of an image: which software is in it, read from its bytes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Packages of Debian, Alpine and Red Hat and their relatives, of npm, Python, Rust and Go, and what a Wasm program says
of itself. Every image is read once, after its push.

Examples:
  margay registry sbom me/cats:1
  margay registry sbom me/cats:1 --format cyclonedx --platform linux/amd64 > cats.json"
)]
pub struct Sbom {
    /// Which one, as in me/cats:1 or me/cats@sha256:…
    #[arg(value_name = "REPOSITORY:TAG")]
    image: String,
    /// The format of the document, JSON in both cases
    #[arg(long, value_enum, default_value = "spdx")]
    format: Format,
    /// Which image of several, as in linux/amd64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// SPDX 2.3
    Spdx,
    /// CycloneDX 1.5
    Cyclonedx,
}

impl Sbom {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let format = match self.format {
            Format::Spdx => SbomFormat::Spdx,
            Format::Cyclonedx => SbomFormat::Cyclonedx,
        };
        let document = block_on(admin.sbom(&self.image, format, self.platform.as_deref()))?;
        output::raw(&document);
        line(format_args!(""));
        Ok(())
    }
}

/// Say which published vulnerabilities the software of an image has
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An image is `clean` when all of it was read and compared with data that is not old, else `unknown`:
margay registry vulndb ls.

Examples:
  margay registry scan me/cats:1
  margay registry scan me/cats:1 --severity high    # fails when there is one as severe, or more"
)]
pub struct Scan {
    /// Which one, as in me/cats:1 or me/cats@sha256:…
    #[arg(value_name = "REPOSITORY:TAG")]
    image: String,
    /// Exit with 1 when there is a finding as severe as this that is not waived: low, medium, high,
    /// critical; unknown for every finding, and when not everything is known
    #[arg(long, value_name = "SEVERITY")]
    severity: Option<Severity>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
pub enum Findings {
    /// List vulnerabilities of all images, the most severe first
    #[command(
        visible_alias = "list",
        after_help = "What is given has all to be true. Of a registry elsewhere, those of images that you may read.

Examples:
  margay registry findings ls --severity critical
  margay registry findings ls --vulnerability CVE-2024-3094"
    )]
    Ls {
        /// As severe as this, or more
        #[arg(long, value_name = "SEVERITY")]
        severity: Option<Severity>,
        /// With this name
        #[arg(long, value_name = "NAME")]
        vulnerability: Option<String>,
        /// In this package
        #[arg(long, value_name = "NAME")]
        package: Option<String>,
        /// In this repository
        #[arg(long, value_name = "REPOSITORY")]
        repository: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

impl Scan {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let reports = block_on(admin.scan(&self.image))?;
        match self.output.is_json() {
            true => output::json(&reports)?,
            false => reports.images.iter().for_each(print),
        }
        let Some(limit) = self.severity else { return Ok(()) };
        let all = reports.images.iter().flat_map(|report| &report.findings);
        let severe = all.filter(|one| one.severity >= limit && one.waived.is_none()).count();
        ensure!(
            severe == 0,
            Advice::new(format!(
                "`{}` has {severe} findings as severe as {}",
                self.image,
                limit.name()
            ))
        );
        let unknown = reports.images.iter().any(|report| !report.unknown.is_empty());
        ensure!(
            limit != Severity::Unknown || !unknown,
            Advice::new(format!("not everything of `{}` is known", self.image))
                .hint("import current data: margay registry vulndb update")
        );
        Ok(())
    }
}

fn print(report: &ScanReport) {
    let SeverityCounts { critical, high, medium, low, unknown } = report.counts;
    let field = |name: &str, value: &str| {
        line(format_args!("{name:<13}{}", printable(value)));
    };
    field("image", &format!("{}@{}", report.repository, report.digest));
    if !report.platform.is_empty() {
        field("platform", &report.platform);
    }
    if let Some(distribution) = &report.distribution {
        field("distribution", distribution);
    }
    field("packages", &report.packages.to_string());
    field("status", &word(&report.status));
    report.unknown.iter().for_each(|why| field("unknown", why));
    field(
        "findings",
        &format!("{critical} critical, {high} high, {medium} medium, {low} low, {unknown} unrated"),
    );
    if !report.findings.is_empty() {
        let headings = ["SEVERITY", "VULNERABILITY", "PACKAGE", "VERSION", "FIXED IN", "SUMMARY"];
        print_table(&headings, report.findings.iter().map(row));
    }
}

fn row(finding: &Finding) -> [String; 6] {
    let severity = match finding.score {
        Some(score) => format!("{} {score:.1}", finding.severity.name()),
        None => finding.severity.name().to_owned(),
    };
    let summary = match &finding.waived {
        Some(waiver) => format!("waived: {}", waiver.reason),
        None => finding.summary.chars().take(60).collect(),
    };
    [
        severity,
        finding.vulnerability.clone(),
        finding.package.clone(),
        finding.version.clone(),
        finding.fixed.clone().unwrap_or_else(|| "-".to_owned()),
        summary,
    ]
}

impl Findings {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let Self::Ls { severity, vulnerability, package, repository, output } = self;
        let severity = severity.unwrap_or_default();
        let search = FindingSearch { severity, vulnerability, package, repository };
        let found = block_on(admin.findings(&search))?;
        let headings = ["SEVERITY", "VULNERABILITY", "PACKAGE", "VERSION", "FIXED IN", "IMAGE"];
        output.records(&found.findings, &headings, |one| {
            let [severity, vulnerability, package, version, fixed, _] = row(&one.finding);
            let image = match one.tags.first() {
                Some(tag) => format!("{}:{tag}", one.repository),
                None => format!("{}@{}", one.repository, one.digest.short()),
            };
            [severity, vulnerability, package, version, fixed, image]
        })?;
        if found.more {
            notice(format_args!("There are more: look for less."));
        }
        Ok(())
    }
}
