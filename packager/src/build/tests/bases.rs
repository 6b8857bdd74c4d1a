use super::*;

#[test]
fn an_image_stacks_on_the_layers_of_its_base() {
    let bench = Workbench::new();
    bench.put("httpd.wasm", wasm()).put("www/index.html", "default").put("own/index.html", "cats");
    let base = "FROM scratch\nCOPY httpd.wasm /\nCOPY www/ /srv/www/\nENV A=1\nCMD \
        [\"x\"]\nENTRYPOINT [\"/httpd.wasm\"]\n";
    bench.put("Dockerfile", base);
    let tag = |input: &mut Build<'_>, name: &str| input.tags = vec![name.parse().unwrap()];
    let httpd = bench.build_with(|input| tag(input, "httpd")).unwrap();
    bench.put("Dockerfile", "FROM httpd\nCOPY own/ /srv/www/\nENV B=$A\n");
    let cats = bench.build_with(|input| tag(input, "cats")).unwrap();
    assert_eq!(
        cats.layers[..2].iter().map(|l| l.digest).collect::<Vec<_>>(),
        httpd.layers.iter().map(|l| l.digest).collect::<Vec<_>>()
    );
    assert_eq!(cats.layers.len(), 3);
    bench.put("Dockerfile", "FROM httpd\nCMD a line\n");
    let arguments = bench.config(&bench.build().unwrap()).cmd.unwrap();
    assert_eq!(arguments, ["/bin/sh", "-c", "a line"], "the arguments of the base's program");
    let config = bench.config(&cats);
    assert_eq!(config.env.unwrap()[1..], ["A=1", "B=1"]);
    assert_eq!(config.entrypoint.unwrap(), ["/httpd.wasm"]);
    assert_eq!(config.cmd.unwrap(), ["x"]);
}

#[test]
fn a_missing_base_says_how_to_get_it() {
    let bench = Workbench::new();
    let error = bench.dockerfile("# a comment\nFROM httpd\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`Dockerfile`, line 2, column 6: there is no local image `httpd:latest`"
    );
    assert!(error.hint().unwrap().starts_with("build it first: margay build -t httpd FOLDER"));
    let beside = bench.dir.path().join("httpd");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("Dockerfile"), "FROM scratch").unwrap();
    let hint = bench.build().unwrap_err().hint().unwrap();
    assert_eq!(hint, format!("build it first: margay build -t httpd {}", beside.display()));
    let error = bench.dockerfile("FROM box.local/me/httpd:1\n").unwrap_err();
    assert_eq!(error.hint().unwrap(), "fetch it first: margay pull box.local/me/httpd:1");
}

#[test]
fn stages_and_images_can_be_copied_from() {
    let bench = Workbench::new();
    bench.put("app.wasm", wasm()).put("x", "X").put("www/a", "A").put("www/b", "B");
    bench.put("Dockerfile", "FROM scratch\nCOPY www /from/image/\n");
    bench.build_with(|input| input.tags = vec!["files".parse().unwrap()]).unwrap();
    let built = bench
        .dockerfile(
            "ARG BASE=scratch\nFROM ${BASE} AS first\nCOPY x /one\nRUN never\n\nFROM scratch AS \
             second\nCOPY x /two/x\n\
             COPY --from=files /from/image/a /two/\nFROM scratch\nCOPY app.wasm /\nCOPY \
             --from=second /two /2\n\
             COPY --from=files /from/*/b /3/\nENTRYPOINT [\"app.wasm\"]\n",
        )
        .unwrap();
    assert_eq!(bench.files(&built), ["app.wasm=WASM", "2/a=A", "2/x=X", "3/b=B"]);
    let error = bench
        .dockerfile("FROM scratch AS a\nCOPY x /\nFROM scratch\nCOPY --from=a /y /\n")
        .unwrap_err();
    assert_eq!(error.to_string(), "`Dockerfile`, line 4, column 15: there is no `/y` in `a`");
}

#[test]
fn from_takes_the_platform_that_it_asks_for_where_there_is_a_choice() {
    let bench = Workbench::new();
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 0x3e;
    bench.put("api.wasm", wasm()).put("api", &elf);
    bench.put("margay.toml", "name = \"api\"\n[native]\nlinux-amd64 = \"api\"\n");
    bench.build().unwrap();
    fs::remove_file(bench.context().join("margay.toml")).unwrap();
    let note = "line 1, column 1: FROM --platform=linux/s390x is ignored: the local `api:latest` is for wasi/wasm";
    for (platform, want, notes) in [
        ("linux/amd64", "amd64", &[][..]),
        ("wasi/wasm", "wasm", &[]),
        ("linux/s390x", "wasm", &[note]),
    ] {
        let built =
            bench.dockerfile(&format!("FROM --platform={platform} api\nENV A=1\n")).unwrap();
        // Each of the three takes the name of the one before it, which is another note.
        let said: Vec<_> =
            warnings(&built).into_iter().filter(|text| text.starts_with("line ")).collect();
        assert_eq!(built.platforms[0].architecture, want, "{platform}");
        assert_eq!(said, notes, "{platform}");
    }
}
