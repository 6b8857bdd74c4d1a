//! Registries whose images are fetched when they are pulled.

use std::time::Duration;

use clap::Subcommand;
use registry::{Admin, NewUpstream};
use spec::Tenant;

use crate::{
    output::{Output, ago, line, notice, now, size},
    serve::block_on,
    verbs::{ask_for_each, login},
};

#[derive(Debug, Subcommand)]
pub enum Upstream {
    /// Fetch what is pulled as NAME/… from another registry, and keep it
    #[command(
        after_help = "Blobs, and manifests by digest, are fetched once. A tag is asked for again after --ttl; while the upstream
does not answer, what is kept is served. NAME becomes an organisation: its policies say which users pull,
its quota how much is kept, and what was pulled the longest time ago makes room; retention rules apply.
A client that names the registry it would ask otherwise (containerd: ?ns=docker.io) needs no NAME.

Examples:
  margay registry upstream create hub https://docker.io --public --match 'library/*'
  docker pull REGISTRY/hub/library/alpine:3.20
  margay registry upstream create ghcr https://ghcr.io --username me --password-stdin <token
  margay registry policy set 'ghcr/*' acme/dev pull"
    )]
    Create {
        /// The name before the names of its repositories
        name: Tenant,
        /// Where it is: https://HOST[:PORT]
        url: String,
        /// Which repositories of it, as in library/* (repeatable) [default: all]
        #[arg(long = "match", value_name = "PATTERN")]
        repositories: Vec<String>,
        /// How long a tag is taken for current [default: 10m]
        #[arg(long, value_name = "TIME", value_parser = spec::parse_duration)]
        ttl: Option<Duration>,
        /// Let clients without a login pull
        #[arg(long)]
        public: bool,
        /// Let the upstream be at an internal address, and of plain HTTP
        #[arg(long)]
        private: bool,
        /// As which user it is asked
        #[arg(long, value_name = "USER", requires = "password_stdin")]
        username: Option<String>,
        /// Read the password, or a token, from stdin
        #[arg(long, requires = "username")]
        password_stdin: bool,
    },
    /// List upstreams, what was fetched since the registry has started, and the last failure
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Fetch nothing more of upstreams; what is kept stays
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        upstreams: Vec<Tenant>,
    },
}

/// A tag of a base image moves some times in a month; ten minutes are what GitLab and Harbor's
/// users set.
const TTL: Duration = Duration::from_secs(600);

impl Upstream {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Create {
                name,
                url,
                repositories,
                ttl,
                public,
                private,
                username,
                password_stdin: _,
            } => {
                let login = username.map(login::of_other_registry).transpose()?;
                let ttl_seconds = ttl.unwrap_or(TTL).as_secs();
                let wanted = NewUpstream { url, repositories, ttl_seconds, public, private, login };
                block_on(admin.create_upstream(&name, &wanted))?;
                if !public {
                    notice(format_args!(
                        "Which users pull is what policies say: margay registry policy set '{name}/*' '*' pull"
                    ));
                }
                line(format_args!("{name}"));
                Ok(())
            }
            Self::Ls { output } => list(admin, output),
            Self::Rm { upstreams } => ask_for_each(&upstreams, |name| admin.remove_upstream(name)),
        }
    }
}

fn list(admin: &Admin, output: Output) -> anyhow::Result<()> {
    let headings = ["UPSTREAM", "URL", "MATCH", "TTL", "FETCHED", "LAST FAILURE"];
    output.records(&block_on(admin.upstreams())?, &headings, |upstream| {
        let matched = match upstream.repositories.is_empty() {
            true => "*".to_owned(),
            false => upstream.repositories.join(","),
        };
        let failure = upstream.last_failure.as_ref();
        let failure = failure.map(|last| format!("{}: {}", ago(last.at, now()), last.error));
        [
            upstream.name.to_string(),
            upstream.url.clone(),
            matched,
            format!("{}s", upstream.ttl_seconds),
            size(upstream.counts.fetched_bytes),
            failure.unwrap_or_else(|| "-".to_owned()),
        ]
    })
}
