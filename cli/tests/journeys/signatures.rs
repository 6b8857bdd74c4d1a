//! Images that are signed with keys of openssl and of cosign, checked, and asked for.

use std::process::Command;

use crate::{
    registry_admin::{Apart, check},
    stage::Stage,
};

/// A key pair of openssl: the files of the private and of the public key.
fn key_pair(stage: &Stage, name: &str) -> (String, String) {
    let file = |end: &str| stage.path(&format!("{name}{end}")).display().to_string();
    let (private, public) = (file(".pem"), file(".pub"));
    for arguments in [
        vec![
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &private,
        ],
        vec!["pkey", "-in", &private, "-pubout", "-out", &public],
    ] {
        let done = Command::new("openssl").args(&arguments).output().expect("openssl runs");
        assert!(done.status.success(), "{done:?}");
    }
    (private, public)
}

#[test]
fn an_image_is_signed_verified_and_asked_to_be_signed() {
    let stage = Stage::new();
    let apart = Apart::with_images(&stage);
    let image = format!("{}/me/cats:hello", apart.address);
    let ((private, public), (_, other)) = (key_pair(&stage, "ours"), key_pair(&stage, "other"));
    let says = |arguments: &[&str], code: i32, want: &str| {
        let said = stage.margay(arguments);
        let text = format!("{}{}", said.out, said.err);
        assert_eq!(said.code, code, "{arguments:?}: {text}");
        assert!(text.contains(want), "{arguments:?}: no `{want}` in {text}");
    };
    let missing = stage.path("none.pem").display().to_string();
    says(&["verify", "--key", &public, &image], 1, "has no signature of this key: it has none");
    says(&["sign", "--key", &missing, &image], 1, "cannot read the key");
    says(&["sign", "--key", &public, &image], 1, "is no key to sign with: it is a `PUBLIC KEY`");
    says(&["verify", "--key", &private, &image], 1, "is no public key: it is a `PRIVATE KEY`");
    says(&["sign", "--key", &private, &format!("{}/me/none:v1", apart.address)], 1, "me/none:v1");
    says(&["sign", "--key", &private, &image], 0, "me/cats:hello@sha256:");
    says(&["verify", "--key", &public, &image], 0, "signed with ");
    says(&["verify", "--key", &other, &image], 1, "one is there: it is of another key");
    says(&["verify", "--key", &other, "--key", &public, "-o", "json", &image], 0, "ours.pub");
    // What is not signed is not served to those that cannot sign it.
    let add = ["registry", "user", "add", "bob", "--password-stdin"];
    stage.margay_fed(add, "a fine password\n").ok();
    check(&stage, "visibility me/cats public", 0, "me/cats");
    check(&stage, &format!("signature set me/* --key {public}"), 0, "me/*");
    check(&stage, &format!("signature set me/* --key {private}"), 1, "is no public key");
    check(&stage, "signature ls", 0, "sha256:");
    let bob = Stage::new();
    let log_in = ["login", "-u", "bob", "--password-stdin", &apart.address];
    bob.margay_fed(log_in, "a fine password\n").ok();
    bob.margay(["pull", &image]).ok();
    let unsigned = format!("{}/me/cats:httpd", apart.address);
    let refused = bob.margay(["pull", &unsigned]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("is not signed with a key that `me/*` asks for"), "{refused:?}");
    check(&stage, "signature rm me/*", 0, "me/*");
    check(&stage, "signature rm me/*", 1, "there is no policy of signatures for `me/*`");
    bob.margay(["pull", &unsigned]).ok();
    apart.end();
}
