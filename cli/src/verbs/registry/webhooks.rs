//! Which changes are told to which URLs.

use anyhow::ensure;
use clap::Subcommand;
use registry::{
    Admin, Delivery, DeliveryOutcome, EventKind, NewWebhook, RepositoryPattern, WebhookName,
};

use crate::{
    failure::Advice,
    output::{Output, ago, line, notice, now},
    serve::block_on,
    verbs::ask_for_each,
};

#[derive(Debug, Subcommand)]
pub enum Webhook {
    /// Send events of repositories to a URL, and print the secret of their signatures
    #[command(
        after_help = "An event is a CloudEvent 1.0 as JSON, signed as Standard Webhooks has it
(webhook-id, webhook-timestamp, webhook-signature). It comes at least once, and again for a day while the
receiver answers with anything but 2xx.

Examples:
  margay registry webhook create acme/ci https://ci.example.com/hook
  margay registry webhook create acme/ci https://ci.example.com/hook --repositories 'acme/web-*' \\
    --event image-pushed"
    )]
    Create {
        /// Its name, of the account whose repositories it is about
        #[arg(value_name = "ACCOUNT/NAME")]
        webhook: WebhookName,
        /// Where the events go
        url: String,
        /// Which repositories, as in acme/web-* [default: all of the account]
        #[arg(long, value_name = "PATTERN")]
        repositories: Option<RepositoryPattern>,
        /// image-pushed, image-deleted, tag-deleted, repository-deleted or vulnerabilities-found
        /// (repeatable) [default: all]
        #[arg(long = "event", value_name = "EVENT")]
        events: Vec<EventKind>,
        /// Let the URL be at an internal address, and of plain HTTP: an operator may
        #[arg(long)]
        private: bool,
    },
    /// List webhooks
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// List the last tries to deliver events
    Log {
        /// Its name
        #[arg(value_name = "ACCOUNT/NAME")]
        webhook: WebhookName,
        #[command(flatten)]
        output: Output,
    },
    /// Send an event that is about nothing, and say how it was answered
    Test {
        /// Its name
        #[arg(value_name = "ACCOUNT/NAME")]
        webhook: WebhookName,
    },
    /// Remove webhooks with the events that wait for them
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "ACCOUNT/NAME")]
        webhooks: Vec<WebhookName>,
    },
}

impl Webhook {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Create { webhook, url, repositories, events, private } => {
                let all = || RepositoryPattern::all_of(&webhook.account);
                let repositories = repositories.unwrap_or_else(all);
                let events = events.into_iter().collect();
                let wanted = NewWebhook { url, repositories, events, private };
                let created = block_on(admin.create_webhook(&webhook, &wanted))?;
                notice(format_args!("The secret of the signatures is shown once:"));
                line(format_args!("{}", created.secret));
                Ok(())
            }
            Self::Ls { output } => list(admin, output),
            Self::Log { webhook, output } => {
                let tries = block_on(admin.deliveries(&webhook))?;
                output.records(&tries, &["WHEN", "EVENT", "TYPE", "RESULT"], |delivery| {
                    let (event, kind) = (delivery.event.clone(), delivery.kind.clone());
                    [ago(delivery.at, now()), event, kind, result(delivery)]
                })
            }
            Self::Test { webhook } => {
                let delivery = block_on(admin.test_webhook(&webhook))?;
                ensure!(
                    delivery.outcome == DeliveryOutcome::Delivered,
                    Advice::new(format!(
                        "`{webhook}` did not take the event: {}",
                        result(&delivery)
                    ))
                    .hint("a receiver answers with 2xx within ten seconds")
                );
                line(format_args!("{}", result(&delivery)));
                Ok(())
            }
            Self::Rm { webhooks } => ask_for_each(&webhooks, |name| admin.remove_webhook(name)),
        }
    }
}

fn list(admin: &Admin, output: Output) -> anyhow::Result<()> {
    let headings = ["WEBHOOK", "REPOSITORIES", "EVENTS", "WAITING", "LAST", "URL"];
    output.records(&block_on(admin.webhooks())?, &headings, |hook| {
        let events: Vec<_> = hook.events.iter().map(|kind| kind.name()).collect();
        let waiting = match hook.dropped {
            0 => hook.pending.to_string(),
            dropped => format!("{} ({dropped} dropped)", hook.pending),
        };
        [
            hook.webhook.to_string(),
            hook.repositories.to_string(),
            if events.is_empty() { "all".to_owned() } else { events.join(",") },
            waiting,
            hook.last.as_ref().map_or_else(|| "-".to_owned(), result),
            hook.url.clone(),
        ]
    })
}

/// How a try ended.
fn result(delivery: &Delivery) -> String {
    let said = match (delivery.status, &delivery.error) {
        (Some(status), _) => status.to_string(),
        (None, Some(error)) => error.clone(),
        (None, None) => "nothing".to_owned(),
    };
    match delivery.outcome {
        DeliveryOutcome::Delivered => format!("delivered ({said})"),
        DeliveryOutcome::Failed => format!("failed ({said})"),
        DeliveryOutcome::GivenUp => format!("given up ({said})"),
    }
}
