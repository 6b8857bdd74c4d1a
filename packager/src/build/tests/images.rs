use super::*;

#[test]
fn a_program_gets_a_layer_of_its_own_and_files_another() {
    let bench = Workbench::new();
    bench
        .put("app.wasm", wasm())
        .put("www/index.html", "cats")
        .put("www/a/b.css", "x")
        .put(".dockerignore", "Dockerfile");
    let built = bench
        .dockerfile("FROM scratch\nCOPY . /\nENTRYPOINT [\"/app.wasm\"]\nEXPOSE 80\n")
        .unwrap();
    assert_eq!(
        bench.files(&built),
        ["app.wasm=WASM", ".dockerignore=Dockerfile", "www/a/b.css=x", "www/index.html=cats"]
    );
    assert_eq!(built.layers.len(), 2);
    assert_eq!(built.platforms[0].architecture, "wasm");
    assert_eq!(built.references, ["context".parse().unwrap()]);
    let plan = bench.layout.plan(&built.descriptor).unwrap();
    assert_eq!((plan.platform.os.as_str(), plan.exposed_ports()), ("wasi", vec![80]));
}

#[test]
fn builds_of_the_same_tree_have_the_same_digest() {
    let dockerfile =
        "FROM scratch\nCOPY app.wasm /\nCOPY www /srv/www/\nENTRYPOINT [\"/app.wasm\"]\n";
    let built = [(); 2].map(|()| {
        let bench = Workbench::new();
        bench.put("app.wasm", wasm()).put("www/z", "1").put("www/a/b", "2").put("www/m", "3");
        bench.dockerfile(dockerfile).unwrap().descriptor
    });
    assert_eq!(built[0], built[1]);
}

#[test]
fn a_program_alone_becomes_a_cncf_artifact() {
    let bench = Workbench::new();
    bench.put("hello.wasm", wasm());
    let context = bench.context().join("hello.wasm");
    let built =
        bench.build_with(|input| input.context = Box::leak(context.into_boxed_path())).unwrap();
    assert_eq!(built.references, ["hello".parse().unwrap()]);
    let plan = bench.layout.plan(&built.descriptor).unwrap();
    assert_eq!(
        (plan.format, plan.layers[0].descriptor.digest),
        (image::Format::CncfArtifact, spec::Digest::of(&wasm()))
    );
    let folder = bench.build().unwrap();
    assert_eq!(folder.descriptor, built.descriptor);
    // As a base it becomes a file in an image.
    bench.put("Dockerfile", "FROM hello\nCOPY hello.wasm /copy\n");
    let stacked = bench.build().unwrap();
    assert_eq!(bench.files(&stacked), ["hello.wasm=WASM", "copy=WASM"]);
    assert_eq!(bench.config(&stacked).entrypoint.unwrap(), ["/hello.wasm"]);
}

#[test]
fn margay_toml_describes_an_app() {
    let bench = Workbench::new();
    bench.put("api.wasm", wasm()).put("public/index.html", "cats").put("one", "1");
    bench.put(
        "margay.toml",
        "name = \"acme/api\"\nversion = \"1.2\"\nbuild = \"echo built > public/new\"\nwasm = \
         \"./api.wasm\"\nargs = [\"-v\"]\nports = [80]\n\
         wants = [\"fs:/data#rw;optional\"]\n[files]\n\"/public\" = \"./public\"\n\"/etc/one\" = \
         \"one\"\n[env]\nLOG = \"info\"\n",
    );
    let built = bench.build().unwrap();
    assert_eq!(
        built.references.iter().map(Reference::to_string).collect::<Vec<_>>(),
        ["acme/api:latest", "acme/api:1.2"]
    );
    assert_eq!(
        bench.files(&built),
        ["api.wasm=WASM", "etc/one=1", "public/index.html=cats", "public/new=built\n"]
    );
    let config = bench.config(&built);
    assert_eq!(
        (config.entrypoint.unwrap(), config.env.unwrap()),
        (vec!["/api.wasm".into(), "-v".into()], vec!["LOG=info".into()])
    );
    assert_eq!(built.wants, ["fs:/data#rw;optional".parse().unwrap()]);
    bench.put("margay.toml", "wants = [\"env:LOG\"]\n");
    let bare = bench.build().unwrap();
    assert_eq!(bench.layout.plan(&bare.descriptor).unwrap().wants, ["env:LOG".parse().unwrap()]);
}

#[test]
fn a_wish_for_reuse_is_kept_in_the_image_and_in_the_artifact() {
    for text in ["reuse = 64\n", "reuse = 64\nports = [80]\n"] {
        let bench = Workbench::new();
        bench.put("margay.toml", text).put("app.wasm", wasm());
        let built = bench.build().unwrap();
        assert_eq!(bench.layout.plan(&built.descriptor).unwrap().reuse, Some(64), "{text}");
    }
    let bench = Workbench::new();
    bench.put("app.wasm", wasm());
    let labelled = |reuse: &str| {
        let text = "FROM scratch\nCOPY app.wasm /\nENTRYPOINT [\"/app.wasm\"]\nLABEL margay.reuse=";
        bench.dockerfile(&format!("{text}{reuse}\n"))
    };
    let built = labelled("64").unwrap();
    assert_eq!(bench.layout.plan(&built.descriptor).unwrap().reuse, Some(64));
    let error = labelled("all").unwrap_err();
    assert!(message_of(&error).contains("`all`, and not a number from 1 to 10000"));
}

#[test]
fn a_wrong_margay_toml_names_the_line() {
    for (text, want) in [
        ("name = \"x\"\ncats = 1\n", "`margay.toml`, line 2: unknown field `cats`"),
        ("wasm = 1\n", "`margay.toml`, line 1: invalid type: integer `1`, expected a string"),
        ("wants = [\"fs:x\"]\n", "`margay.toml`, line 1: `fs:x` is not a capability"),
        ("reuse = 0\n", "`margay.toml`: the image's `margay.reuse` is `0`, and not a number from"),
        ("reuse = -1\n", "`margay.toml`, line 1: invalid value: integer `-1`"),
        ("wasm = \"no.wasm\"\n", "`margay.toml`: there is no `no.wasm` in the build context"),
        ("build = \"exit 3\"\n", "the build command `exit 3` failed: exit status: 3"),
        (
            "[native]\nlinux-amd64 = \"text\"\n",
            "`margay.toml`: `text` is an unknown kind of file, not a native program",
        ),
        (
            "[files]\n\"/../x\" = \"text\"\n",
            "`margay.toml`: `/../x` in `files` cannot be in an image",
        ),
    ] {
        let bench = Workbench::new();
        bench.put("api.wasm", wasm()).put("text", "x").put("margay.toml", text);
        let error = bench.build().expect_err(text).to_string();
        assert!(error.starts_with(want), "{text}: {error}");
    }
}

#[test]
fn native_bodies_stand_behind_wasm_in_an_index() {
    let bench = Workbench::new();
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 0x3e;
    bench.put("api.wasm", wasm()).put("api", &elf);
    bench.put("margay.toml", "[native]\nlinux-amd64 = \"api\"\n");
    let built = bench.build().unwrap();
    assert!(built.descriptor.media_type.is_index());
    let names: Vec<_> =
        built.platforms.iter().map(|p| format!("{}/{}", p.os, p.architecture)).collect();
    assert_eq!(names, ["wasi/wasm", "linux/amd64"]);
    let chosen = bench.layout.choose(&built.descriptor, &host_platforms()).unwrap();
    assert_eq!(bench.layout.plan(&chosen).unwrap().platform.os, "wasi");
}

#[test]
fn reading_in_a_layout_leaves_it_as_it_was() {
    let bench = Workbench::new();
    bench.put("index.json", r#"{"schemaVersion":2,"manifests":[]}"#);
    crate::import(&bench.layout, &bench.context(), &|_| {}).unwrap_err();
    assert_eq!(fs::read_dir(bench.context()).unwrap().count(), 1);
}
