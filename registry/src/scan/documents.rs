//! Bills of material. The same inventory of the same image gives the same bytes.

use serde_json::{Value, json};
use spec::{Algorithm, Digest, Timestamp};

use super::{
    package::{Inventory, Package},
    purl::purl,
};
use crate::protocol::SbomFormat;

/// The bill of material of an image, read at a moment.
pub(crate) fn document(
    format: SbomFormat,
    image: (&str, &Digest),
    inventory: &Inventory,
    read: Timestamp,
) -> Vec<u8> {
    let value = match format {
        SbomFormat::Spdx => spdx(image, inventory, read),
        SbomFormat::Cyclonedx => cyclonedx(image, inventory, read),
    };
    serde_json::to_vec(&value).expect("maps with keys of text")
}

const TOOL: &str = concat!("margay-", env!("CARGO_PKG_VERSION"));

/// # Spec
/// SPDX 2.3, JSON.
fn spdx((name, digest): (&str, &Digest), inventory: &Inventory, read: Timestamp) -> Value {
    const IMAGE: &str = "SPDXRef-image";
    let nothing = "NOASSERTION";
    let package_of = |number: usize, package: &Package| {
        let mut entry = json!({
            "SPDXID": format!("SPDXRef-{number}"),
            "name": package.name,
            "versionInfo": package.version,
            "downloadLocation": nothing,
            "filesAnalyzed": false,
            "licenseConcluded": nothing,
            "licenseDeclared": nothing,
            "copyrightText": nothing,
            "sourceInfo": format!("found in {}", package.path),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl(package, inventory.distribution.as_ref()),
            }],
        });
        if !package.license.is_empty() {
            // Names of licenses in packages are not always those of SPDX, which alone are allowed
            // in `licenseDeclared`.
            entry["licenseComments"] = json!(format!("declared as: {}", package.license));
        }
        entry
    };
    let image = json!({
        "SPDXID": IMAGE,
        "name": name,
        "versionInfo": digest,
        "downloadLocation": nothing,
        "filesAnalyzed": false,
        "licenseConcluded": nothing,
        "licenseDeclared": nothing,
        "copyrightText": nothing,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{
            "algorithm": if digest.algorithm() == Algorithm::Sha512 { "SHA512" } else { "SHA256" },
            "checksumValue": digest.hex(),
        }],
    });
    let all = inventory.packages.iter().enumerate();
    let packages: Vec<_> =
        [image].into_iter().chain(all.map(|(number, one)| package_of(number, one))).collect();
    let contains = (0..inventory.packages.len()).map(|number| {
        json!({
            "spdxElementId": IMAGE,
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": format!("SPDXRef-{number}"),
        })
    });
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": IMAGE,
    });
    let relationships: Vec<_> = [describes].into_iter().chain(contains).collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("https://margay.invalid/sbom/{}", digest.hex()),
        "creationInfo": { "created": to_seconds(read), "creators": [format!("Tool: {TOOL}")] },
        "comment": incomplete(inventory),
        "packages": packages,
        "relationships": relationships,
    })
}

/// # Spec
/// CycloneDX 1.5, JSON.
fn cyclonedx((name, digest): (&str, &Digest), inventory: &Inventory, read: Timestamp) -> Value {
    let component = |package: &Package| {
        let url = purl(package, inventory.distribution.as_ref());
        let mut entry = json!({
            "type": "library",
            "bom-ref": url,
            "name": package.name,
            "version": package.version,
            "purl": url,
            "properties": [{ "name": "margay:path", "value": package.path }],
        });
        if !package.license.is_empty() {
            entry["licenses"] = json!([{ "license": { "name": package.license } }]);
        }
        entry
    };
    let system = inventory.distribution.as_ref().map(|distribution| {
        json!({
            "type": "operating-system",
            "bom-ref": format!("os:{}", distribution.id),
            "name": distribution.id,
            "version": distribution.version,
            "description": distribution.title,
        })
    });
    let components = system.into_iter().chain(inventory.packages.iter().map(component));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": to_seconds(read),
            "tools": { "components": [{
                "type": "application", "name": "margay", "version": env!("CARGO_PKG_VERSION"),
            }] },
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": name,
                "version": digest,
            },
            "properties": [{ "name": "margay:incomplete", "value": incomplete(inventory) }],
        },
        "components": components.collect::<Vec<_>>(),
    })
}

/// What was not read, in words.
fn incomplete(inventory: &Inventory) -> String {
    match inventory.unread.as_slice() {
        [] => "everything was read".to_owned(),
        unread => format!("not read: {}", unread.join("; ")),
    }
}

/// A time as both specifications write it: without a fraction.
fn to_seconds(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{}Z", text.split('.').next().unwrap_or_default())
}
