//! Signatures of images by keys, in the formats of cosign: simple signing, and sigstore bundles,
//! which are read. Absent on purpose: certificates of a public authority, and transparency logs.

mod pem; // text between two lines
mod keys; // ECDSA on P-256
mod payload; // what is signed
mod check; // which signatures hold

pub use keys::{KeyFault, SigningKey, VerifyingKey};
pub(crate) use {
    check::{Checked, check},
    payload::{
        SIGNATURE_KEY, SIGNATURE_MEDIA_TYPE, config_of, is_signature_layer, payload_of,
        signature_tag,
    },
};
