use super::*;

#[test]
fn copy_places_files_as_docker_does() {
    for (line, want) in [
        ("COPY a.html /srv/", &["srv/a.html=A"][..]),
        ("COPY a.html /srv", &["srv=A"]),
        ("COPY a.html b.html /srv/", &["srv/a.html=A", "srv/b.html=B"]),
        ("COPY *.html /srv/", &["srv/a.html=A", "srv/b.html=B"]),
        ("COPY [\"a.html\", \"/with space/\"]", &["with space/a.html=A"]),
        ("COPY d /srv", &["srv/e/deep=D", "srv/x=X"]),
        ("COPY d/ /srv/", &["srv/e/deep=D", "srv/x=X"]),
        ("COPY d/e /", &["deep=D"]),
        ("COPY ./d/x .", &["x=X"]),
        ("COPY /d/x /y", &["y=X"]),
        ("WORKDIR /w\nCOPY d/x v/", &["w/v/x=X"]),
        ("WORKDIR /w\nWORKDIR v\nCOPY d/x ./", &["w/v/x=X"]),
        ("ARG P=d\nCOPY $P/x /${P}2/", &["d2/x=X"]),
        ("COPY d/* /srv/", &["srv/deep=D", "srv/x=X"]),
        ("WORKDIR /app\nCOPY a.html /app", &["app/a.html=A"]),
        (
            "WORKDIR /app\nCOPY a.html .\nWORKDIR /app\nCOPY b.html /app",
            &["app/a.html=A", "app/b.html=B"],
        ),
        ("COPY a.html /srv/\nCOPY b.html /srv", &["srv/a.html=A", "srv/b.html=B"]),
        ("COPY <<EOF /note\nhello $P \\$x \"q\"\nEOF", &["note=hello  $x \"q\"\n"]),
        ("COPY <<'EOF' /note\nhello $P\nEOF", &["note=hello $P\n"]),
    ] {
        let bench = Workbench::new();
        bench.put("a.html", "A").put("b.html", "B").put("d/x", "X").put("d/e/deep", "D");
        let built = bench
            .dockerfile(&format!("FROM scratch\n{line}\n"))
            .unwrap_or_else(|e| panic!("{line}: {}", message_of(&e)));
        assert_eq!(bench.files(&built), want, "{line}");
    }
}

#[test]
fn a_pattern_without_a_match_copies_nothing() {
    for (line, want) in [
        ("COPY Gemfile Gemfile.lock* ./", &["Gemfile=G"][..]),
        ("COPY *.lock /srv/", &[]),
        ("COPY Gemfile Gemfile.lock* /one", &["one=G"]),
        ("COPY --from=a /x? /Gemfile* /srv/", &["srv/Gemfile=G"]),
    ] {
        let bench = Workbench::new();
        bench.put("Gemfile", "G");
        let stages = format!("FROM scratch AS a\nCOPY Gemfile /\nFROM scratch\n{line}\n");
        let built = bench.dockerfile(&stages).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(bench.files(&built), want, "{line}");
    }
}

#[test]
fn here_documents_in_a_folder_are_named_by_their_delimiters() {
    for (lines, want) in [
        ("COPY <<a.conf /etc/\nA\na.conf", &["etc/a.conf=A\n"][..]),
        (
            "COPY <<a.conf <<'b.conf' /etc/\nA\na.conf\n$B\nb.conf",
            &["etc/a.conf=A\n", "etc/b.conf=$B\n"],
        ),
        ("COPY x <<-\"a.conf\" /etc/\n\tA\n\ta.conf", &["etc/a.conf=A\n", "etc/x=X"]),
        ("WORKDIR /w\nADD <<a.conf .\nA\na.conf", &["w/a.conf=A\n"]),
        ("COPY --chmod=u+x <<run /bin/\nR\nrun", &["bin/run=R\n"]),
    ] {
        let bench = Workbench::new();
        bench.put("x", "X");
        let built = bench.dockerfile(&format!("FROM scratch\n{lines}\n"));
        let built = built.unwrap_or_else(|e| panic!("{lines}: {e}"));
        assert_eq!(bench.files(&built), want, "{lines}");
    }
}

#[test]
fn parents_keep_folders_and_exclude_drops_files() {
    for (line, want) in [
        (
            "COPY --parents lib/core/a.c lib/net /src/",
            &["src/lib/core/a.c=A", "src/lib/net/b.c=B", "src/lib/net/b.o=O"][..],
        ),
        ("COPY --parents lib/./*/*.c /src/", &["src/core/a.c=A", "src/net/b.c=B"]),
        ("COPY --parents lib/./net /src", &["src/net/b.c=B", "src/net/b.o=O"]),
        ("COPY --parents=false lib/core/a.c /src/", &["src/a.c=A"]),
        ("COPY --exclude=**/*.o --exclude=core lib /src/", &["src/net/b.c=B"]),
        ("COPY --exclude=*.o lib/net /src/", &["src/b.c=B"]),
        ("COPY --from=a --exclude=net --parents /lib/./c* /src/", &["src/core/a.c=A"]),
    ] {
        let bench = Workbench::new();
        bench.put("lib/core/a.c", "A").put("lib/net/b.c", "B").put("lib/net/b.o", "O");
        let stages = format!("FROM scratch AS a\nCOPY lib /lib\nFROM scratch\n{line}\n");
        let built = bench.dockerfile(&stages).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(bench.files(&built), want, "{line}");
    }
}

#[test]
fn workdir_creates_its_folder() {
    let bench = Workbench::new();
    let built = bench
        .dockerfile("FROM scratch AS a\nWORKDIR /data\nFROM scratch\nCOPY --from=a /data /data\n")
        .unwrap();
    assert_eq!(bench.modes(&built), ["data/ 755"]);
    bench.put("links/opt/app/x", "X");
    symlink("opt/app", bench.context().join("links/app")).unwrap();
    let built = bench
        .dockerfile("FROM scratch\nCOPY links /\nWORKDIR /app\nWORKDIR logs\nWORKDIR /\n")
        .unwrap();
    assert_eq!(
        built.layers.len(),
        2,
        "one for a folder that is there already would be for nothing"
    );
    assert_eq!(bench.modes(&built)[3..], ["opt/ 755", "opt/app/ 755", "opt/app/logs/ 755"]);
    assert_eq!(bench.config(&built).working_dir.unwrap(), "/");
    let error =
        bench.dockerfile("FROM scratch\nCOPY links/opt/app/x /x\nWORKDIR /x/y\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`Dockerfile`, line 3, column 1: `/x` is a file already, and no folder can take its place"
    );
}

/// A copy that hid what is below it would take programs away that the base has.
#[test]
fn copy_preserves_existing_folders_and_links() {
    let bench = Workbench::new();
    bench
        .put("base/usr/bin/sh", "SH")
        .put("rootfs/bin/extra", "E")
        .put("x", "X")
        .put("d/y", "Y")
        .put("file/bin", "F");
    symlink("usr/bin", bench.context().join("base/bin")).unwrap();
    fs::create_dir(bench.context().join("link")).unwrap();
    symlink("elsewhere", bench.context().join("link/usr")).unwrap();
    bench.put("Dockerfile", "FROM scratch\nCOPY base /\nCOPY x /x\n");
    bench.build_with(|input| input.tags = vec!["base".parse().unwrap()]).unwrap();
    for from in ["FROM base\n", "FROM scratch\nCOPY base /\nCOPY x /x\n"] {
        let below = ["bin->usr/bin", "usr/bin/sh=SH", "x=X"];
        for (line, want) in [
            ("COPY rootfs/bin /bin/", &["usr/bin/extra=E"][..]),
            ("COPY x /bin/", &["usr/bin/x=X"]),
            ("COPY x /bin/deep/", &["usr/bin/deep/x=X"]),
            ("COPY file/ /", &["bin=F"]), // a file takes the place of a link
            ("COPY <<E /bin\nD\nE", &["usr/bin/E=D\n"]),
        ] {
            let built = bench
                .dockerfile(&format!("{from}{line}\n"))
                .unwrap_or_else(|e| panic!("{line}: {}", message_of(&e)));
            assert_eq!(bench.files(&built), [&below, want].concat(), "{from}{line}");
        }
        for (line, want) in [
            ("COPY x /x/y", "`/x` is a file already, and no folder can take its place"),
            ("COPY d /x", "`/x` is a file already, and no folder can take its place"),
            ("COPY x d /x/", "`/x` is a file already, and no folder can take its place"),
            ("COPY <<E /x/y\nE", "`/x` is a file already, and no folder can take its place"),
            ("COPY rootfs/ /", "`/bin` is a link in the image, and no folder can take its place"),
            ("COPY link /", "`/usr` is a folder already, and no file can take its place"),
        ] {
            let error = bench.dockerfile(&format!("{from}{line}\n")).expect_err(line).to_string();
            assert!(error.ends_with(want), "{from}{line}: {error}");
        }
    }
}

#[test]
fn modes_are_kept_of_images_archives_and_the_context() {
    let bench = Workbench::new();
    bench.put("k", "K").put("d/x", "X").put("d/e/y", "Y");
    let mut tar = Vec::new();
    for (path, kind, mode, bytes) in [
        ("etc/", b'5', 0o700, ""),
        ("etc/shadow", b'0', 0o600, "SHADOW"),
        ("tmp/", b'5', 0o1777, ""),
        ("bin/su", b'0', 0o4755, "SU"),
    ] {
        crate::layer::tarball::headers(
            &mut tar,
            path,
            kind,
            crate::items::Meta::of(mode),
            bytes.len() as u64,
            "",
            0,
        )
        .unwrap();
        tar.extend(bytes.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend([0; 1024]);
    bench.put("rootfs.tar", tar);
    for (lines, want) in [
        ("COPY --chmod=700 d/x /x", &["x 700"][..]),
        ("COPY --chmod=640 d /srv", &["srv/ 640", "srv/e/ 640", "srv/e/y 640", "srv/x 640"]),
        ("COPY d /srv", &["srv/ 755", "srv/e/ 755", "srv/e/y 644", "srv/x 644"]),
        (
            "ADD rootfs.tar /",
            &["bin/ 755", "bin/su 4755", "etc/ 700", "etc/shadow 600", "tmp/ 1777"],
        ),
        (
            "COPY --from=a / /",
            &["bin/ 755", "bin/su 4755", "etc/ 700", "etc/shadow 600", "k 600", "tmp/ 1777"],
        ),
        ("COPY --from=a /k /x", &["x 600"]),
        ("COPY --from=a --chmod=444 /k /x", &["x 444"]),
        ("COPY --from=a --chmod=g+r,o=r /k /x", &["x 644"]),
        ("COPY --chmod=+X d /srv", &["srv/ 755", "srv/e/ 755", "srv/e/y 644", "srv/x 644"]),
        ("WORKDIR /tmp\nCOPY --from=a /tmp /tmp", &["tmp/ 755"]), // a folder that is there stays as it is
        (
            "WORKDIR /tmp\nADD rootfs.tar /",
            &["tmp/ 755", "bin/ 755", "bin/su 4755", "etc/ 700", "etc/shadow 600", "tmp/ 1777"],
        ),
    ] {
        let first = "FROM scratch AS a\nCOPY --chmod=600 k /\nADD rootfs.tar /\nFROM scratch\n";
        let built = bench
            .dockerfile(&format!("{first}{lines}\n"))
            .unwrap_or_else(|e| panic!("{lines}: {}", message_of(&e)));
        assert_eq!(bench.modes(&built), want, "{lines}");
    }
}

/// Whatever links there are in a context, no byte from outside of it gets into an image.
#[test]
fn no_link_leads_out_of_the_context() {
    let bench = Workbench::new();
    fs::write(bench.dir.path().join("secret"), "SECRET").unwrap();
    fs::create_dir(bench.context().join("d")).unwrap();
    symlink("../../secret", bench.context().join("d/relative")).unwrap();
    symlink(bench.dir.path().join("secret"), bench.context().join("absolute")).unwrap();
    symlink("/", bench.context().join("root")).unwrap();
    symlink("..", bench.context().join("parent")).unwrap();
    symlink("/proc/self/root", bench.context().join("magic")).unwrap();
    let secret = bench.dir.path().join("secret");
    let through_root = format!("root{}", secret.display());
    // Each leads to what it would in an image whose root is the context.
    for source in
        ["d/relative", "absolute", "root", "parent", "parent/secret", "magic/etc", &through_root]
    {
        match bench.dockerfile(&format!("FROM scratch\nCOPY {source} /x/\n")) {
            Ok(built) => {
                let files = bench.files(&built);
                assert!(!files.iter().any(|file| file.contains("SECRET")), "{source}: {files:?}");
            }
            Err(error) => assert_eq!(missing(&error), Some(false), "{source}"),
        }
    }
    // As a link in a folder that is copied it is a link, and means something inside of the image.
    fs::remove_file(bench.context().join("d/relative")).unwrap();
    symlink("/etc/hosts", bench.context().join("d/link")).unwrap();
    // `..` at the root of an image stays there, whatever a link says.
    symlink("../../other/x", bench.context().join("d/up")).unwrap();
    let built = bench.dockerfile("FROM scratch\nCOPY d /d\nCOPY d /\n").unwrap();
    let want =
        ["d/link->/etc/hosts", "d/up->../../other/x", "link->/etc/hosts", "up->../../other/x"];
    assert_eq!(bench.files(&built), want);
}

/// Whether `.dockerignore` is why a source is missing; `None` for other errors.
fn missing(error: &Error) -> Option<bool> {
    match error {
        Error::BuildFile(Diagnostic { kind: DiagnosticKind::Missing { ignored, .. }, .. }) => {
            Some(*ignored)
        }
        _ => None,
    }
}

/// A file that `.dockerignore` names is not in the context, whichever path leads to it.
#[test]
fn no_link_leads_to_an_ignored_file() {
    let bench = Workbench::new();
    bench.put("secret/key", "SECRET").put("d/key", "SECRET").put("d/open", "O").put("other/x", "X");
    for (link, target) in [
        ("to-file", "d/key"),
        ("to-folder", "secret"),
        ("chain", "to-file"),
        ("through", "hidden-link"),
        ("hidden-link", "d/open"),
        ("to-d", "other/../d"),
        ("other/up", "../secret"),
    ] {
        symlink(target, bench.context().join(link)).unwrap();
    }
    for ignored in ["secret\nd/key\nhidden-link\n", "secret\nd/key\nhidden-link\n!other\n"] {
        bench.put(".dockerignore", ignored);
        let sources = ["to-file", "chain", "to-folder/key", "through", "hidden-link", "to-d/key"];
        for source in sources.into_iter().chain(["other/up/key", "to-folder", "secret"]) {
            let error =
                bench.dockerfile(&format!("FROM scratch\nCOPY {source} /x/\n")).expect_err(source);
            assert!(missing(&error).is_some(), "{source}: {}", message_of(&error));
        }
        let error = bench.dockerfile("FROM scratch\nCOPY to-file /x\n").unwrap_err();
        assert_eq!(
            error.hint().unwrap(),
            "`.dockerignore` leaves it out: add a line with `!` and its name"
        );
        for (source, want) in [
            ("to-d", &["x/open=O"][..]),
            ("to-d/*", &["x/open=O"]),
            ("to-d/k*", &[]), // a pattern may match nothing
            ("other/u*/key", &[]),
            ("other", &["x/up->../secret", "x/x=X"]), // a link in a folder stays a link
            ("other/../d/open", &["x/open=O"]),
        ] {
            let built = bench.dockerfile(&format!("FROM scratch\nCOPY {source} /x/\n")).unwrap();
            assert_eq!(bench.files(&built), want, "{source}");
        }
        bench.put("margay.toml", "[files]\n\"/x\" = \"to-file\"\n").put("app.wasm", wasm());
        let error = bench.build().unwrap_err();
        assert_eq!(missing(&error), Some(true), "{}", message_of(&error));
        fs::remove_file(bench.context().join("margay.toml")).unwrap();
    }
}

#[test]
fn add_unpacks_a_tar_through_the_strict_reader() {
    let tar = |name: &str| {
        let mut block = vec![0; 512 * 4];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(b"00000000004");
        block[148..156].copy_from_slice(b"        ");
        block[156] = b'0';
        block[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block[512..516].copy_from_slice(b"cats");
        block
    };
    let bench = Workbench::new();
    bench.put("good.tar", tar("in/side")).put("bad.tar", tar("../escape"));
    let built = bench.dockerfile("FROM scratch\nADD good.tar /d\nCOPY good.tar /copied\n").unwrap();
    let files = bench.files(&built);
    assert_eq!(files[0], "d/in/side=cats");
    assert!(files[1].starts_with("copied="));
    let error = bench.dockerfile("FROM scratch\nADD bad.tar /d\n").unwrap_err();
    assert_eq!(
        message_of(&error),
        "the archive `bad.tar` cannot be added: the layer has an entry `../escape`: its name has a \
         `..`, which could \
         leave the image"
    );
}
