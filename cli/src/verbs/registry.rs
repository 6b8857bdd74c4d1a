mod accounts; // users, organisations and robot accounts
mod backups; // everything in a folder, and back
mod contents; // tags and manifests
mod htpasswd; // users of other registries
mod scans; // which software images have, and which vulnerabilities
mod scan_policies; // images that are refused for it
mod vulndb; // what is published
mod images; // what images are, and which have something
mod policies; // teams, and what they may do
mod quotas; // what accounts may have, and open uploads
mod rates; // how many requests clients may send
mod remote; // which registry a verb is about
mod retention; // which tags and manifests stay
mod rules; // switches and immutable tags
mod signatures; // images that have to be signed
mod webhooks; // which changes are told to which URLs
mod replications; // repositories that are pushed to other registries
mod upstreams; // registries whose images are fetched when they are pulled
mod space; // what collection and its like have done, in words

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{Subcommand, ValueEnum};
use registry::{Admin, Config, Repository, Server, Switch, Tokens};
use sandbox::{Network, Service};
use tokio::net::TcpListener;

use crate::{
    authorities,
    failure::{Advice, USAGE_ERROR},
    home::Home,
    output::{Output, line},
    platform::{
        self, apart, certificates,
        copies::Holder,
        front::RegistryFront,
        listen::{LISTEN_FD, Listen},
    },
    rights,
    serve::{self, Child, block_on},
};

/// Run the registry apart, or manage its users and the visibility of repositories
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Without a subcommand: serve in the foreground.
With this machine it speaks plain HTTP. With others it speaks TLS: with --tls-cert, with a certificate of
the platform's authority (MARGAY_HOME/server/ca.pem) where the control plane has the same home, or with
both; clients that call it by its address get the latter.

Examples:
  margay registry --listen 0.0.0.0:5000 --tls-cert fullchain.pem --tls-key privkey.pem
  margay registry --public-url https://registry.example.com --trusted-proxy 127.0.0.1"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    whereabouts: remote::Whereabouts,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    front: RegistryFront,
    /// The files of a certificate of the platform's authority, and of its key
    #[arg(long, hide = true, num_args = 2, value_name = "FILE")]
    platform_cert: Option<Vec<PathBuf>>,
    #[command(flatten)]
    child: Child,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Manage users
    #[command(subcommand)]
    User(accounts::User),
    /// Manage organisations, whose repositories are those of no user
    #[command(subcommand)]
    Org(accounts::Organisation),
    /// Manage teams of users, which policies name
    #[command(subcommand)]
    Team(policies::Team),
    /// Manage what users, teams and robot accounts may do in repositories that are not theirs
    #[command(subcommand)]
    Policy(policies::Policy),
    /// Manage robot accounts: logins of programs, within the rights of a user or an organisation
    #[command(subcommand)]
    Robot(accounts::Robot),
    /// Change your own password, in the registry that --registry names
    Passwd {
        /// Read the new password from stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// Manage the users that administer the registry from anywhere
    #[command(subcommand)]
    Operator(remote::Operator),
    /// Limit the requests of clients; or say how they are limited
    RateLimit(rates::RateLimit),
    /// Manage webhooks: which changes are told to which URLs
    #[command(subcommand)]
    Webhook(webhooks::Webhook),
    /// Manage replications: repositories that are pushed to other registries
    #[command(subcommand)]
    Replication(replications::Replication),
    /// Manage upstreams: registries whose images are fetched when they are pulled
    #[command(subcommand)]
    Upstream(upstreams::Upstream),
    /// Manage which images have to be signed before they are pulled
    #[command(subcommand)]
    Signature(signatures::Signature),
    Inspect(images::Inspect),
    Search(images::Search),
    Sbom(scans::Sbom),
    Scan(scans::Scan),
    /// List the vulnerabilities of all images
    #[command(subcommand)]
    Findings(scans::Findings),
    /// Manage for which vulnerabilities images are refused
    #[command(subcommand)]
    ScanPolicy(scan_policies::ScanPolicyVerb),
    /// Manage the vulnerability data that images are compared with
    #[command(subcommand)]
    Vulndb(vulndb::VulnDb),
    /// List and remove tags
    #[command(subcommand)]
    Tag(contents::Tag),
    /// List and remove manifests
    #[command(subcommand)]
    Manifest(contents::Manifest),
    /// List and remove repositories
    #[command(subcommand)]
    Repository(RepositoryVerb),
    /// What accounts and repositories may have
    #[command(subcommand)]
    Quota(quotas::Quota),
    /// List and cancel uploads that are not finished
    #[command(subcommand)]
    Upload(quotas::Upload),
    /// Remove the bytes that no manifest names: what the registry does every hour by itself
    #[command(
        after_help = "A blob that no manifest of its repository names goes when that has been so for the \
grace time, and no client has asked for it: a push sends its manifest last. Other requests go on meanwhile."
    )]
    Gc {
        /// Say what would go, and leave it
        #[arg(long)]
        dry_run: bool,
        /// How long a blob must have been unused; with 0s pushes that are under way may have to be
        /// repeated [default: 1h]
        #[arg(long, value_name = "TIME", value_parser = spec::parse_duration)]
        grace: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
    /// Which tags and manifests stay: the registry deletes the others every hour by itself
    #[command(subcommand)]
    Retention(retention::RetentionVerb),
    /// Let clients push and delete nothing, or let them again; or say which
    ReadOnly {
        /// on, or off
        wanted: Option<rules::Wanted>,
    },
    /// Take images without their blobs, as a mirror of some platforms has them, or refuse them
    /// again; or say which
    Sparse {
        /// on, or off
        wanted: Option<rules::Wanted>,
    },
    /// Let clients without a login push, pull and delete everything, for development, or not
    /// again; or say which
    AnonymousPush {
        /// on, or off
        wanted: Option<rules::Wanted>,
    },
    /// Write a line for each request to MARGAY_HOME/registry/access/access.log, or no more; or say
    /// which
    #[command(
        after_help = "A line is JSON: time, address, principal, method, path, status, bytes received and sent, seconds, user agent.
After 64 MiB the file becomes access.log.1, and of five files the oldest goes."
    )]
    AccessLog {
        /// on, or off
        wanted: Option<rules::Wanted>,
    },
    /// Attach what is found in images to them, for clients of the referrers API, or no more; or say
    /// which
    #[command(
        after_help = "The bills of material in SPDX and CycloneDX, and the findings when there are some: manifests whose subject is the
image. They count to the quota of the repository, and are attached to images that are pushed from then on."
    )]
    AttachScans {
        /// on, or off
        wanted: Option<rules::Wanted>,
    },
    /// Print counters of requests and repositories, in the text format of Prometheus
    #[command(
        after_help = "Prometheus reads them from https://REGISTRY/v2/_margay/admin/metrics with the name and password of an operator.
They begin with the process. A thousand repositories are told apart, and the others are one."
    )]
    Metrics,
    /// Repositories whose tags, once set, are not moved
    #[command(subcommand)]
    Immutable(rules::ImmutableVerb),
    /// Read every blob and manifest again, and say which are damaged: what the registry does every
    /// week by itself
    #[command(
        after_help = "What is damaged is not served any more, and the next push of it heals it. \
Exits with 1 when anything is."
    )]
    Scrub {
        /// How much to read in a second [default: 16MiB]
        #[arg(long, value_name = "SIZE", value_parser = spec::parse_bytes)]
        rate: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// Copy everything into a folder while the registry runs; the next time only what is new
    #[command(
        after_help = "The folder has users, rules, repositories and their blobs as they are at one moment: keep it as private as the
home. Exits with 1 when the registry has lost blobs, which are named; everything else is in the backup."
    )]
    Backup {
        /// An empty folder, or one with an earlier backup
        folder: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Make a registry from a backup, in a home that has none
    #[command(
        after_help = "What the backup lacks is named, and exits with 1: the registry serves the rest, and the next push heals it."
    )]
    Restore {
        /// The folder with the backup
        folder: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Make a repository public or private
    Visibility {
        /// Which one, as in me/cats
        repository: Repository,
        /// Readable by all, or by its owner alone
        visibility: Visibility,
    },
    /// List repositories and their visibility
    Ls {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum RepositoryVerb {
    /// List repositories and their visibility
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Remove repositories with all that they have
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names, as in me/cats
        #[arg(required = true, value_name = "REPOSITORY")]
        repositories: Vec<Repository>,
    },
}

/// The visibility of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Visibility {
    /// All clients may read it.
    Public,
    /// Its owner alone.
    Private,
}

impl From<Visibility> for registry::Visibility {
    fn from(visibility: Visibility) -> Self {
        match visibility {
            Visibility::Public => Self::Public,
            Visibility::Private => Self::Private,
        }
    }
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self.verb {
            Some(verb) => verb.run(home, &self.whereabouts),
            None => self.serve(home),
        }
    }

    fn serve(self, home: &Home) -> anyhow::Result<()> {
        self.child.begin(self.listen.inherited_fd().as_slice())?;
        let socket = self.listen.socket(platform::REGISTRY_PORT)?;
        socket.set_nonblocking(true)?;
        if self.front.certificate.paths().is_some() && !self.child.has_parent() {
            self.listen.announce("registry", &socket)?;
            let arguments = self.front.arguments().collect();
            let listeners = vec![(LISTEN_FD, socket)];
            let certificate = &self.front.certificate;
            let holder = Holder::Registry;
            return apart::serve(home, "registry", arguments, listeners, certificate, holder);
        }
        let data_dir = home.folder("registry")?;
        let files = self.front.certificate.open()?;
        let platform = self.platform_pair(home, socket.local_addr()?.ip())?;
        let tls = match (&files, platform) {
            (Some(files), Some(platform)) => Some(files.server_beside(platform, &[])),
            (Some(files), None) => Some(files.server()),
            (None, Some(platform)) => Some(net::tls::server_with(platform)),
            (None, None) => None,
        };
        let config = Config {
            realm: self.front.realm(),
            tls,
            plain_http: self.front.url.insecure,
            proxies: self.front.proxies.trusted(),
            ..Config::new(&data_dir)
        };
        ensure!(
            config.tls.is_some() || config.plain_http || socket.local_addr()?.ip().is_loopback(),
            Advice::new("other machines would reach this registry in plain HTTP, with passwords")
                .hint(
                    "give it a certificate: --tls-cert FILE --tls-key FILE; or allow it: --insecure"
                )
                .code(USAGE_ERROR)
        );
        // Before this process becomes another user: the control plane may want the key as soon.
        Tokens::open(&data_dir)?;
        self.child.confine(&Service {
            user: rights::REGISTRY,
            home: home.path(),
            owns: Some(&data_dir),
            reads: &[],
            network: Network::Connects,
        })?;
        serve::until_shutdown(|stop| async move {
            let server = Server::open(config).await?;
            self.listen.announce("registry", &socket)?;
            let renewals = async {
                match &files {
                    Some(files) => files.keep_up().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                served = server.serve(TcpListener::from_std(socket)?, stop) => anyhow::Ok(served?),
                never = renewals => match never {},
            }
        })
    }
}

impl Args {
    /// A certificate of the platform's authority: the one that `margay up` has made, or one made
    /// now where other machines reach this one.
    fn platform_pair(
        &self,
        home: &Home,
        address: IpAddr,
    ) -> anyhow::Result<Option<net::tls::Pair>> {
        if let Some([chain, key]) = self.platform_cert.as_deref() {
            let (chain, key) = (authorities::text(chain)?, authorities::text(key)?);
            return Ok(Some(net::tls::pair(&chain, &key)?));
        }
        if address.is_loopback() || !certificates::has_authority(home) {
            return Ok(None);
        }
        let outbound = platform::outbound_address().map(|address| address.to_string());
        let issued = certificates::issue(home, address, outbound.as_slice())?;
        Ok(Some(net::tls::pair(&issued.chain, &issued.key)?))
    }
}

impl Verb {
    fn run(self, home: &Home, whereabouts: &remote::Whereabouts) -> anyhow::Result<()> {
        if let Self::Passwd { password_stdin } = self {
            return whereabouts.change_password(home, password_stdin);
        }
        ensure!(
            !whereabouts.is_remote() || !matches!(self, Self::Backup { .. } | Self::Restore { .. }),
            Advice::new("a registry is backed up and restored on its own machine")
                .hint("run it there, without --registry")
                .code(USAGE_ERROR)
        );
        if let Self::Restore { folder, output } = self {
            return backups::restore(&folder, &home.folder("registry")?, output);
        }
        let admin = whereabouts.admin(home, matches!(self, Self::Vulndb(_)))?;
        match self {
            Self::User(user) => user.run((!whereabouts.is_remote()).then_some(home), &admin)?,
            Self::Org(verb) => verb.run(&admin)?,
            Self::Team(verb) => verb.run(&admin)?,
            Self::Policy(verb) => verb.run(&admin)?,
            Self::Robot(robot) => robot.run(&admin)?,
            Self::Visibility { repository, visibility } => {
                set_visibility(&admin, &repository, visibility)?;
            }
            Self::Operator(verb) => return verb.run(&admin),
            Self::RateLimit(verb) => verb.run(&admin)?,
            Self::Webhook(verb) => verb.run(&admin)?,
            Self::Replication(verb) => verb.run(&admin)?,
            Self::Upstream(verb) => verb.run(&admin)?,
            Self::Signature(verb) => verb.run(&admin)?,
            Self::Inspect(args) => args.run(&admin)?,
            Self::Search(args) => args.run(&admin)?,
            Self::Sbom(args) => args.run(&admin)?,
            Self::Scan(args) => args.run(&admin)?,
            Self::Findings(verb) => verb.run(&admin)?,
            Self::ScanPolicy(verb) => verb.run(&admin)?,
            Self::Vulndb(verb) => verb.run(&admin, whereabouts.ca())?,
            Self::Tag(verb) => verb.run(&admin)?,
            Self::ReadOnly { wanted } => rules::switch(&admin, Switch::ReadOnly, wanted)?,
            Self::Sparse { wanted } => rules::switch(&admin, Switch::Sparse, wanted)?,
            Self::AnonymousPush { wanted } => {
                rules::switch(&admin, Switch::AnonymousPush, wanted)?;
            }
            Self::AccessLog { wanted } => rules::switch(&admin, Switch::AccessLog, wanted)?,
            Self::AttachScans { wanted } => rules::switch(&admin, Switch::AttachScans, wanted)?,
            Self::Metrics => {
                block_on(admin.metrics())?.lines().for_each(|text| line(format_args!("{text}")))
            }
            Self::Immutable(verb) => verb.run(&admin)?,
            Self::Retention(verb) => verb.run(&admin)?,
            Self::Scrub { rate, output } => scrub(&admin, rate, output)?,
            Self::Backup { folder, output } => backups::back_up(&admin, &folder, output)?,
            Self::Restore { .. } | Self::Passwd { .. } => unreachable!("they have returned"),
            Self::Quota(verb) => verb.run(&admin)?,
            Self::Upload(verb) => verb.run(&admin)?,
            Self::Gc { dry_run, grace, output } => {
                output.record(&block_on(admin.collect(grace, dry_run))?, space::told)?;
            }
            Self::Manifest(verb) => verb.run(&admin)?,
            Self::Repository(RepositoryVerb::Rm { repositories }) => {
                return super::ask_for_each(&repositories, |repository| {
                    admin.remove_repository(repository)
                });
            }
            Self::Repository(RepositoryVerb::Ls { output }) | Self::Ls { output } => {
                list(&admin, output)?;
            }
        }
        Ok(())
    }
}

fn list(admin: &Admin, output: Output) -> anyhow::Result<()> {
    let repositories = block_on(admin.repositories())?;
    output.records(&repositories, &["REPOSITORY", "READ BY"], |repository| {
        let readers = match repository.visibility {
            registry::Visibility::Public => "everyone",
            registry::Visibility::Private => "its owner",
        };
        [repository.name.clone(), readers.to_owned()]
    })
}

fn set_visibility(
    admin: &Admin,
    repository: &Repository,
    visibility: Visibility,
) -> anyhow::Result<()> {
    let there = block_on(admin.repositories())?;
    ensure!(
        there.iter().any(|known| known.name == repository.to_string()),
        Advice::new(format!("there is no repository `{repository}`"))
            .hint("see what there is: margay registry ls")
    );
    block_on(admin.set_visibility(repository, visibility.into()))?;
    line(format_args!("{repository}"));
    Ok(())
}

fn scrub(admin: &Admin, rate: Option<u64>, output: Output) -> anyhow::Result<()> {
    let scrubbed = block_on(admin.scrub(rate))?;
    output.record(&scrubbed, space::scrubbed)?;
    let damaged = scrubbed.damaged.len();
    ensure!(
        damaged == 0,
        Advice::new(format!("damaged: {}", space::count(damaged as u64)))
            .hint("push the images again that have them, which heals them")
    );
    Ok(())
}
