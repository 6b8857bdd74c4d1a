use std::path::{Path, PathBuf};

use anyhow::bail;
use registry::VerifyingKey;
use serde::Serialize;
use spec::{Digest, Reference};

use crate::{
    failure::Advice,
    home::Home,
    output::Output,
    serve::block_on,
    text_file::{KEY_BYTES_MAX, text_file},
    transfer::{self, Remote},
};

/// Check that an image in a registry is signed with a key
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Signatures of `margay sign` and of `cosign sign --key` count, in both forms of cosign. With several keys one of
them is enough.

Example:
  margay verify --key key.pub localhost:8080/ann/api:v1"
)]
pub struct Args {
    /// The public key, in PEM (repeatable)
    #[arg(long = "key", required = true, value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
    /// What to check
    #[arg(value_name = "REGISTRY/NAME[:TAG][@DIGEST]")]
    image: Reference,
}

#[derive(Serialize)]
struct Verified {
    image: String,
    digest: Digest,
    /// The keys that have signed it, by their files.
    keys: Vec<String>,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let keys =
            self.keys.iter().map(|path| verifying_key(path)).collect::<Result<Vec<_>, _>>()?;
        let image = self.image.remote();
        let registry = image.registry().expect("a remote name has a registry");
        let client = transfer::client(home, &self.remote, registry)?;
        let found = block_on(client.verify(&image, &keys))?;
        if found.keys.is_empty() {
            let others: Vec<_> =
                found.others.iter().map(|why| format!("one is there: {why}")).collect();
            let others =
                if others.is_empty() { "it has none".to_owned() } else { others.join("; ") };
            bail!(
                Advice::new(format!(
                    "`{}` ({}) has no signature of this key: {others}",
                    self.image, found.digest
                ))
                .hint("sign it: margay sign --key FILE IMAGE")
            );
        }
        let signed = self.keys.iter().zip(&keys);
        let signed = signed.filter(|(_, key)| found.keys.contains(&key.fingerprint()));
        let verified = Verified {
            image: self.image.to_string(),
            digest: found.digest,
            keys: signed.map(|(path, _)| path.display().to_string()).collect(),
        };
        self.output.record(&verified, |verified| {
            let pinned = format!("{}@{}", verified.image, verified.digest);
            format!("{pinned}\nsigned with {}", verified.keys.join(", "))
        })
    }
}

/// The public key in a file.
pub fn verifying_key(path: &Path) -> anyhow::Result<VerifyingKey> {
    let text = text_file(path, KEY_BYTES_MAX).map_err(|error| {
        let message = format!("cannot read the key `{}`: {error}", path.display());
        Advice::new(message).hint("name a file in PEM: --key FILE")
    })?;
    VerifyingKey::read(&text).map_err(|fault| {
        Advice::new(format!("`{}` is no public key: {fault}", path.display()))
            .hint("write it from the private one: openssl pkey -in FILE -pubout")
            .into()
    })
}
