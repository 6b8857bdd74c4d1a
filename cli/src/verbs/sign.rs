use std::{env, path::PathBuf};

use registry::SigningKey;
use spec::Reference;

use crate::{
    failure::Advice,
    home::Home,
    images,
    serve::block_on,
    text_file::{KEY_BYTES_MAX, text_file},
    transfer::{self, Remote},
    verbs::login,
};

/// Sign an image where it is, in a registry
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The key is one of ECDSA on P-256: of `cosign generate-key-pair`, whose password is asked for or is in
COSIGN_PASSWORD, or of openssl. cosign verifies the signature, and what cosign has signed with a key, `margay verify`
does.

Examples:
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem
  openssl pkey -in key.pem -pubout -out key.pub
  margay sign --key key.pem localhost:8080/ann/api:v1"
)]
pub struct Args {
    /// The private key, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    remote: Remote,
    /// What to sign
    #[arg(value_name = "REGISTRY/NAME[:TAG][@DIGEST]")]
    image: Reference,
}

impl Args {
    /// Prints what is signed.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let path = &self.key;
        let text = text_file(path, KEY_BYTES_MAX).map_err(|error| {
            let message = format!("cannot read the key `{}`: {error}", path.display());
            Advice::new(message).hint("name a file in PEM: --key FILE")
        })?;
        let password = match (SigningKey::is_encrypted(&text), env::var("COSIGN_PASSWORD")) {
            (false, _) => String::new(),
            (true, Ok(password)) => password,
            (true, Err(_)) => login::ask_silently("Password of the key: ")?,
        };
        let key = SigningKey::read(&text, &password).map_err(|fault| {
            Advice::new(format!("`{}` is no key to sign with: {fault}", path.display())).hint(
                "the password of a key of cosign is in COSIGN_PASSWORD; a key of openssl: openssl genpkey \
                 -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE",
            )
        })?;
        let image = self.image.remote();
        let registry = image.registry().expect("a remote name has a registry");
        let client = transfer::client(home, &self.remote, registry)?;
        let digest = block_on(client.sign(&image, &key))?;
        images::print_pinned([&self.image], digest);
        Ok(())
    }
}
