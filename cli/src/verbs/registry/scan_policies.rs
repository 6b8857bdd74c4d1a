//! Images that are refused for what a scan has found.

use std::time::Duration;

use anyhow::ensure;
use clap::Subcommand;
use registry::{Admin, RepositoryPattern, ScanPolicy, ScanRule, Severity, Waiver};
use spec::Timestamp;

use crate::{
    failure::Advice,
    output::{Output, line, now},
    serve::block_on,
    verbs::ask_for_each,
};

#[derive(Debug, Subcommand)]
pub enum ScanPolicyVerb {
    /// Refuse to serve images of these repositories that have a vulnerability this severe, and
    /// those of which not everything is known
    #[command(
        after_help = "Nodes get them neither, so that a service of such an image is refused when it is made. Pushing goes on, and the
waivers of a policy that is set again stay.

Examples:
  margay registry scan-policy set 'acme/*' --severity critical
  margay registry scan-policy waive 'acme/*' CVE-2024-3094 --for 30d --reason 'not reachable'"
    )]
    Set {
        /// Which repositories, as in acme/* or acme/web-*
        #[arg(value_name = "PATTERN")]
        repositories: RepositoryPattern,
        /// low, medium, high, critical; unknown for every finding
        #[arg(long, value_name = "SEVERITY")]
        severity: Severity,
        /// Serve images of which not everything is known: not read to the end, or compared with
        /// data that is old or missing
        #[arg(long)]
        allow_unknown: bool,
    },
    /// Let a vulnerability pass for a time
    Waive {
        /// Which repositories, as the policy was set
        #[arg(value_name = "PATTERN")]
        repositories: RepositoryPattern,
        /// Its name, as in CVE-2024-3094
        vulnerability: String,
        /// For how long, as in 30d
        #[arg(long = "for", value_name = "TIME", value_parser = spec::parse_duration)]
        time: Duration,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// End a waiver
    Unwaive {
        /// Which repositories, as the policy was set
        #[arg(value_name = "PATTERN")]
        repositories: RepositoryPattern,
        /// Its name
        vulnerability: String,
    },
    /// List policies with their waivers
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Serve images whatever a scan has found
    #[command(visible_alias = "remove")]
    Rm {
        /// Which repositories, as they were set
        #[arg(required = true, value_name = "PATTERN")]
        repositories: Vec<RepositoryPattern>,
    },
}

impl ScanPolicyVerb {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Set { repositories, severity, allow_unknown } => {
                let known = rule(admin, &repositories)?;
                let waivers = known.map(|rule| rule.waivers).unwrap_or_default();
                let rule = ScanRule { severity, allow_unknown, waivers };
                set(admin, &repositories, &rule)
            }
            Self::Waive { repositories, vulnerability, time, reason } => {
                let mut rule = existing(admin, &repositories)?;
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let expires = Timestamp::from_millis(now().millis().saturating_add(millis));
                rule.waivers.retain(|waiver| waiver.vulnerability != vulnerability);
                rule.waivers.push(Waiver { vulnerability, expires, reason });
                set(admin, &repositories, &rule)
            }
            Self::Unwaive { repositories, vulnerability } => {
                let mut rule = existing(admin, &repositories)?;
                let before = rule.waivers.len();
                rule.waivers.retain(|waiver| waiver.vulnerability != vulnerability);
                ensure!(
                    rule.waivers.len() < before,
                    Advice::new(format!("`{repositories}` has no waiver of `{vulnerability}`"))
                        .hint("see what there is: margay registry scan-policy ls")
                );
                set(admin, &repositories, &rule)
            }
            Self::Ls { output } => {
                let policies = block_on(admin.scan_policies())?;
                let headings = ["REPOSITORIES", "REFUSES", "UNKNOWN", "WAIVERS"];
                output.records(&policies, &headings, |ScanPolicy { repositories, rule }| {
                    let waivers = rule.waivers.iter().map(|waiver| {
                        let until = waiver.expires.to_string();
                        let day = until.split('T').next().unwrap_or_default().to_owned();
                        format!("{} until {day}", waiver.vulnerability)
                    });
                    [
                        repositories.to_string(),
                        rule.severity.name().to_owned(),
                        if rule.allow_unknown { "served" } else { "refused" }.to_owned(),
                        waivers.collect::<Vec<_>>().join(", "),
                    ]
                })
            }
            Self::Rm { repositories } => {
                ask_for_each(&repositories, |pattern| admin.remove_scan_policy(pattern))
            }
        }
    }
}

fn rule(admin: &Admin, repositories: &RepositoryPattern) -> anyhow::Result<Option<ScanRule>> {
    let policies = block_on(admin.scan_policies())?;
    let found = policies.into_iter().find(|policy| policy.repositories == *repositories);
    Ok(found.map(|policy| policy.rule))
}

fn existing(admin: &Admin, repositories: &RepositoryPattern) -> anyhow::Result<ScanRule> {
    rule(admin, repositories)?.ok_or_else(|| {
        Advice::new(format!("there is no policy of scans for `{repositories}`"))
            .hint(format!(
                "set one: margay registry scan-policy set '{repositories}' --severity high"
            ))
            .into()
    })
}

fn set(admin: &Admin, repositories: &RepositoryPattern, rule: &ScanRule) -> anyhow::Result<()> {
    block_on(admin.set_scan_policy(repositories, rule))?;
    line(format_args!("{repositories}"));
    Ok(())
}
