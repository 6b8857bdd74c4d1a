use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::locate;

const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Blobs by digest, and manifests over them.
#[derive(Default)]
struct Blobs(HashMap<Digest, Vec<u8>>);

impl Blobs {
    fn put(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.0.insert(digest, bytes.to_vec());
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn manifest(&mut self, config: (&str, Value), layers: &[(&str, &[u8])]) -> Vec<u8> {
        let config = self.put(config.0, &serde_json::to_vec(&config.1).unwrap());
        let layers: Vec<_> =
            layers.iter().map(|(media_type, bytes)| self.put(media_type, bytes)).collect();
        serde_json::to_vec(&json!({ "schemaVersion": 2, "config": config, "layers": layers }))
            .unwrap()
    }

    fn plan(&self, manifest: &[u8]) -> Result<Plan, Error> {
        plan(manifest, |descriptor| {
            self.0.get(&descriptor.digest).cloned().ok_or(io::ErrorKind::NotFound.into())
        })
    }

    /// The whole way: plan, merge, find the program.
    fn located(&self, manifest: &[u8]) -> Result<crate::Located, Error> {
        let plan = self.plan(manifest)?;
        let mut builder = FileIndexBuilder::new();
        let mut layers = Vec::new();
        for (number, layer) in plan.layers.iter().enumerate() {
            let blob = self.0[&layer.descriptor.digest].as_slice();
            layers.push(layer.read(blob, Vec::new(), &mut builder, number, Budget::default())?.1);
        }
        let index = builder.finish()?;
        locate(&plan, &index, |file, max| {
            let layer: &Vec<u8> = &layers[file.layer as usize];
            Ok(layer[file.offset as usize..][..max as usize].to_vec())
        })
    }
}

/// A tar of these files.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn image_config(architecture: &str, os: &str, entrypoint: &[&str], tars: &[&[u8]]) -> Value {
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
    json!({
        "architecture": architecture, "os": os,
        "config": {
            "Entrypoint": entrypoint,
            "Env": null,
            "Labels": { "margay.wants": "env:A\nfs:/data#rw;optional" },
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids }
    })
}

#[test]
fn all_formats_lead_to_their_program() {
    let wasm_tar = tar_of(&[("www/index.html", b"cats"), ("app.wasm", MODULE)]);
    let elf_tar = tar_of(&[("bin/tool", b"\x7fELF\x02\x01\x01\0")]);
    let spin_app = json!({
        "spin_lock_version": 1, "triggers": [],
        "components": [{
            "id": "cats", "source": { "digest": Digest::of(MODULE) }, "env": { "A": "1" },
            "metadata": { "allowed_outbound_hosts": ["https://api.example.com", "https://*:*"] },
            "files": [{ "path": "/www/page", "content": { "digest": Digest::of(b"a page") } }]
        }]
    });
    let spin_app = serde_json::to_vec(&spin_app).unwrap();
    let oci = MediaType::OCI_CONFIG;
    let empty = json!({});
    for (name, config, layers, format, kind, path) in [
        (
            "cncf",
            (MediaType::WASM_CONFIG, empty.clone()),
            vec![(MediaType::WASM, MODULE)],
            Format::CncfArtifact,
            Kind::Wasm,
            None,
        ),
        (
            "oci-client",
            (MediaType::WASM_CONFIG_V1, empty.clone()),
            vec![(MediaType::WASM, MODULE)],
            Format::CncfArtifact,
            Kind::Wasm,
            None,
        ),
        (
            "wasm-to-oci",
            (MediaType::WASM_CONFIG_V1, empty.clone()),
            vec![(MediaType::WASM_CONTENT, MODULE)],
            Format::WasmToOci,
            Kind::Wasm,
            None,
        ),
        (
            "solo",
            ("application/vnd.module.wasm.config.v1+json", empty),
            vec![(MediaType::SOLO_CONTENT, MODULE)],
            Format::Solo,
            Kind::Wasm,
            None,
        ),
        (
            "runwasi",
            (oci, image_config("wasm", "wasip1", &["x"], &[MODULE])),
            vec![(MediaType::RUNWASI_COMPONENT, MODULE)],
            Format::Runwasi,
            Kind::Wasm,
            None,
        ),
        (
            "docker's wasi/wasm",
            (oci, image_config("wasm32", "wasi", &["app.wasm"], &[&wasm_tar])),
            vec![(MediaType::OCI_LAYER_TAR, wasm_tar.as_slice())],
            Format::Image,
            Kind::Wasm,
            Some("/app.wasm"),
        ),
        (
            "crun's, which claims to be native",
            (
                MediaType::DOCKER_CONFIG,
                image_config("amd64", "linux", &["/app.wasm"], &[&wasm_tar]),
            ),
            vec![(MediaType::DOCKER_LAYER_GZIP, wasm_tar.as_slice())],
            Format::Image,
            Kind::Wasm,
            Some("/app.wasm"),
        ),
        (
            "native, found in PATH",
            (oci, image_config("amd64", "linux", &["tool"], &[&elf_tar])),
            vec![(MediaType::OCI_LAYER_GZIP, elf_tar.as_slice())],
            Format::Image,
            Kind::Native,
            Some("/bin/tool"),
        ),
        (
            "spin",
            (oci, image_config("wasm", "Wasip1", &[], &[])),
            vec![
                (MediaType::SPIN_CONFIG, spin_app.as_slice()),
                (MediaType::WASM_CONTENT, MODULE),
                (MediaType::SPIN_DATA, b"a page"),
            ],
            Format::Spin,
            Kind::Wasm,
            None,
        ),
        (
            "spin, with the application as its config and a file that nothing names",
            (MediaType::SPIN_CONFIG, serde_json::from_slice(&spin_app).unwrap()),
            vec![
                (MediaType::WASM_CONTENT, MODULE),
                (MediaType::SPIN_DATA, b"a page"),
                (MediaType::SPIN_DATA, b"another"),
            ],
            Format::Spin,
            Kind::Wasm,
            None,
        ),
    ] {
        let mut blobs = Blobs::default();
        let manifest = blobs.manifest(config, &layers);
        let plan = blobs.plan(&manifest).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((plan.format, plan.manifest), (format, Digest::of(&manifest)), "{name}");
        let located = blobs.located(&manifest).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((located.kind, located.path.as_deref()), (kind, path), "{name}");
    }
}

#[test]
fn wants_come_from_the_label_the_annotation_or_spin() {
    let mut blobs = Blobs::default();
    let tar = tar_of(&[("app.wasm", MODULE)]);
    let config = image_config("wasm", "wasi", &["/app.wasm"], &[&tar]);
    let manifest =
        blobs.manifest((MediaType::OCI_CONFIG, config), &[(MediaType::OCI_LAYER_TAR, &tar)]);
    let shown = |plan: Plan| plan.wants.iter().map(Want::to_string).collect::<Vec<_>>();
    assert_eq!(shown(blobs.plan(&manifest).unwrap()), ["env:A", "fs:/data#rw;optional"]);

    let manifest =
        blobs.manifest((MediaType::WASM_CONFIG, json!({})), &[(MediaType::WASM, MODULE)]);
    let mut annotated: Value = serde_json::from_slice(&manifest).unwrap();
    annotated["annotations"] = json!({ "margay.wants": "env:B\\nenv:C" });
    assert_eq!(
        shown(blobs.plan(&serde_json::to_vec(&annotated).unwrap()).unwrap()),
        ["env:B", "env:C"]
    );
    annotated["annotations"] = json!({ "margay.wants": "cats:all" });
    assert_eq!(blobs.plan(&serde_json::to_vec(&annotated).unwrap()).unwrap_err().code(), "E_WANTS");
}

#[test]
fn a_wish_for_reuse_is_a_number_of_requests() {
    let mut blobs = Blobs::default();
    let manifest =
        blobs.manifest((MediaType::WASM_CONFIG, json!({})), &[(MediaType::WASM, MODULE)]);
    let mut annotated: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(blobs.plan(&manifest).unwrap().reuse, None);
    for (text, want) in [
        ("1", Some(1)),
        ("64", Some(64)),
        ("10000", Some(10_000)),
        ("0", None),
        ("10001", None),
        ("-1", None),
        ("", None),
        ("many", None),
        ("4294967297", None),
    ] {
        annotated["annotations"] = json!({ "margay.reuse": text });
        match blobs.plan(&serde_json::to_vec(&annotated).unwrap()) {
            Ok(plan) => assert_eq!(plan.reuse, want, "{text}"),
            Err(error) => {
                assert_eq!((error.code(), want), ("E_REUSE", None), "{text}");
                assert!(error.to_string().contains(text), "{error}");
            }
        }
    }
}

#[test]
fn documents_that_say_two_things_are_refused() {
    for (text, want) in [
        ("", "EOF"),
        ("[]", "invalid"),
        ("{}", "`schemaVersion` is not 2"),
        (r#"{"schemaVersion":2}"#, "neither `manifests` nor `layers`"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
        (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "both `manifests` and `layers`"),
        (r#"{"schemaVersion":2,"layers":[],"layers":[]}"#, "the key `layers` is there twice"),
        (r#"{"schemaVersion":2,"layers":[],"Layers":[]}"#, "the key `Layers` is there twice"),
        (r#"{"schemaVersion":2,"x":{"a":1,"a":2},"layers":[]}"#, "the key `a` is there twice"),
        (
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
            "its `mediaType` is that of an index",
        ),
        (
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
            "its `mediaType` is not that of an index",
        ),
        (
            r#"{"schemaVersion":2,"layers":[["a/b","sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",1]]}"#,
            "invalid type: sequence",
        ),
        (
            r#"{"schemaVersion":2,"layers":[{"mediaType":"a/b","digest":"sha256:00","size":1}]}"#,
            "not a digest",
        ),
        (
            r#"{"schemaVersion":2,"layers":[{"mediaType":"a/b","digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","size":-1}]}"#,
            "invalid value",
        ),
    ] {
        let error = parse_document(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
    let deep = format!(r#"{{"schemaVersion":2,"layers":[],"x":{}}}"#, "[".repeat(100_000));
    assert!(parse_document(deep.as_bytes()).is_err());
    assert_eq!(parse_document(&vec![b' '; (4 << 20) + 1]).unwrap_err().code(), "E_LAYER_BUDGET");
}

fn index_of(platforms: &[&str]) -> Index {
    let manifests: Vec<_> = platforms
        .iter()
        .map(|platform| {
            let mut entry = Descriptor::of(MediaType::OCI_MANIFEST, platform.as_bytes());
            let parts: Vec<_> = platform.split('/').map(str::to_owned).collect();
            entry.platform = match parts.as_slice() {
                [os, architecture] => Some(Platform {
                    os: os.clone(),
                    architecture: architecture.clone(),
                    variant: None,
                }),
                _ => None,
            };
            entry
        })
        .collect();
    match parse_document(
        &serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": manifests })).unwrap(),
    )
    .unwrap()
    {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("an index is one"),
    }
}

#[test]
fn wasm_comes_first_then_the_host_and_else_a_list_of_what_there_was() {
    let host = [Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }];
    for (platforms, want) in [
        (&["linux/amd64", "wasi/wasm"][..], "wasi/wasm"),
        (&["linux/arm64", "linux/amd64"], "linux/amd64"),
        (&["linux/amd64", "Wasip1/WASM32"], "Wasip1/WASM32"),
        (&["unknown/unknown", "linux/amd64"], "linux/amd64"),
        (&["unnamed"], "unnamed"),
        (
            &["linux/arm64", "windows/amd64"],
            "the image has nothing for wasi/wasm or linux/amd64: it offers linux/arm64, \
             windows/amd64",
        ),
        (&[], "the image has nothing for wasi/wasm or linux/amd64: it offers nothing"),
    ] {
        let index = index_of(platforms);
        let got = choose(&index, &host).map_or_else(
            |error| error.to_string(),
            |entry| {
                let found =
                    platforms.iter().find(|name| Digest::of(name.as_bytes()) == entry.digest);
                (*found.unwrap()).to_string()
            },
        );
        assert_eq!(got, want, "{platforms:?}");
    }
}

#[test]
fn a_layer_with_a_wrong_diff_id_is_refused() {
    let tar = tar_of(&[("app.wasm", MODULE)]);
    let other = tar_of(&[("app.wasm", b"\0asm\x01\0\0\0dog")]);
    let mut blobs = Blobs::default();
    let config = image_config("wasm", "wasi", &["/app.wasm"], &[&other]);
    let manifest =
        blobs.manifest((MediaType::OCI_CONFIG, config), &[(MediaType::OCI_LAYER_TAR, &tar)]);
    let error = blobs.located(&manifest).unwrap_err();
    assert_eq!(error.code(), "E_DIGEST");
    assert!(error.to_string().contains(&Digest::of(&other).to_string()), "{error}");
    // The blob itself changed, on a disk or on the way.
    blobs.0.insert(Digest::of(&tar), other.clone());
    assert!(matches!(blobs.located(&manifest).unwrap_err().code(), "E_SIZE" | "E_DIGEST"));
}

/// In every compression the end of the blob is reached, where its digest is compared.
#[test]
fn a_blob_with_another_digest_is_refused_however_it_is_compressed() {
    use std::io::Write as _;
    let tar = tar_of(&[("app.wasm", MODULE)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).unwrap();
    for blob in [tar.clone(), gzip.finish().unwrap(), zstd::encode_all(tar.as_slice(), 3).unwrap()]
    {
        let mut descriptor = Descriptor::of(MediaType::OCI_LAYER_TAR, &blob);
        let read = |descriptor: &Descriptor| {
            let layer = PlannedLayer {
                descriptor: descriptor.clone(),
                diff_id: None,
                content: LayerContent::Tar,
            };
            let mut builder = FileIndexBuilder::new();
            layer.read(blob.as_slice(), io::sink(), &mut builder, 0, Budget::default()).map(|_| ())
        };
        read(&descriptor).unwrap();
        descriptor.digest = Digest::of(b"another");
        assert_eq!(read(&descriptor).unwrap_err().code(), "E_DIGEST");
    }
}

#[test]
fn machine_code_and_other_lies_are_refused() {
    let elf: &[u8] = b"\x7fELF\x02\x01\x01\0";
    let cwasm: &[u8] = b"\x7fELF\x02\x01\x01\xc8";
    for (layer, want) in [
        (elf, "E_AOT_UNTRUSTED"),
        (cwasm, "E_AOT_UNTRUSTED"),
        (b"<html>", "E_NOT_WASM"),
        (b"", "E_NOT_WASM"),
    ] {
        let mut blobs = Blobs::default();
        let manifest =
            blobs.manifest((MediaType::WASM_CONFIG, json!({})), &[(MediaType::WASM, layer)]);
        assert_eq!(blobs.located(&manifest).unwrap_err().code(), want, "{layer:?}");
    }
    for (file, entrypoint, want) in [
        (cwasm, &["/app"][..], "E_AOT_UNTRUSTED"),
        (b"text", &["/app"], "E_NOT_WASM"),
        (MODULE, &["/other"], "E_PROGRAM"),
        (MODULE, &[], "E_PROGRAM"),
    ] {
        let tar = tar_of(&[("app", file)]);
        let mut blobs = Blobs::default();
        let config = image_config("wasm", "wasi", entrypoint, &[&tar]);
        let manifest =
            blobs.manifest((MediaType::OCI_CONFIG, config), &[(MediaType::OCI_LAYER_TAR, &tar)]);
        assert_eq!(blobs.located(&manifest).unwrap_err().code(), want, "{entrypoint:?}");
    }
}
