use super::*;

/// Dockerfiles, the error for each, and its hint.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "FROM scratch\nCOPY nope.html /srv/\n",
        "`Dockerfile`, line 2, column 6: there is no `nope.html` in the build context `CONTEXT`",
        "paths in COPY are relative to the build context, the folder given to `margay build`",
    ),
    (
        "FROM scratch\n\nCOPY hidden /\n",
        "`Dockerfile`, line 3, column 6: there is no `hidden` in the build context `CONTEXT`",
        "`.dockerignore` leaves it out: add a line with `!` and its name",
    ),
    (
        "FROM scratch\nRUN apt-get install cats\n",
        "`Dockerfile`, line 2, column 1: RUN is not supported: a build executes no programs",
        "build outside of the image (`cargo build`, `npm run build`, …) and COPY the result, \
             or COPY --from an image \
             that another tool has built",
    ),
    (
        "FROM scratch\nFETCH x\n",
        "`Dockerfile`, line 2, column 1: there is no instruction `FETCH`",
        "",
    ),
    (
        "FROM scratch\nCOPY ../x /\n",
        "`Dockerfile`, line 2, column 6: there is no `../x` in the build context `CONTEXT`",
        "paths in COPY are relative to the build context, the folder given to `margay build`",
    ),
    (
        "FROM scratch\nCOPY out /\n",
        "`Dockerfile`, line 2, column 6: there is no `out` in the build context `CONTEXT`",
        "paths in COPY are relative to the build context, the folder given to `margay build`",
    ),
    (
        "FROM scratch\nADD https://example.com/x /x\n",
        "`Dockerfile`, line 2, column 1: ADD does not fetch `https://example.com/x`",
        "fetch it outside, check its digest, and COPY the file",
    ),
    (
        "FROM scratch\nCOPY text.wasm /\nENTRYPOINT [\"/text.wasm\"]\n",
        "`Dockerfile`, line 3, column 1: `text.wasm` is not a Wasm program: its first bytes are those of an unknown kind of \
             file",
        "compile the program for `wasm32-wasip2` (or `wasm32-wasip1`) and build again",
    ),
    (
        "FROM scratch\nCOPY cut.wasm /\nENTRYPOINT [\"/cut.wasm\"]\n",
        "`Dockerfile`, line 3, column 1: `cut.wasm` is not a Wasm program: it was cut short: it has 60 bytes and should have \
             more",
        "compile the program for `wasm32-wasip2` (or `wasm32-wasip1`) and build again",
    ),
    (
        "FROM scratch\nLABEL margay.wants=\"fs:data\"\n",
        "`Dockerfile`, line 2, column 1: the image's `margay.wants` cannot be used: `fs:data` is not a \
             capability: its path must \
             be absolute, without `.`, `..`, `//`, `%`, `\\` or a `/` at the end",
        "write one capability in each line, as in `fs:/data#rw`",
    ),
    (
        "FROM scratch\nUSER 4294967296\n",
        "`Dockerfile`, line 2, column 1: `4294967296` is not a user: use NAME, UID, NAME:GROUP or \
             UID:GID",
        "",
    ),
    (
        "FROM scratch\nEXPOSE x\n",
        "`Dockerfile`, line 2, column 8: `x` is not a port like 80, 53/udp or 8000-8010",
        "",
    ),
    (
        "FROM scratch\nCOPY --chmod=u+q a.html /\n",
        "`Dockerfile`, line 2, column 6: `--chmod=u+q` is not a mode like 755 or u=rwx,go=rx",
        "",
    ),
    (
        "FROM scratch\nADD --keep a.html /\n",
        "`Dockerfile`, line 2, column 5: ADD has no `--keep`",
        "",
    ),
    (
        "FROM scratch\nENV A=${SECRET:?pass_it}\n",
        "`Dockerfile`, line 2, column 5: `SECRET` is required: pass_it",
        "",
    ),
];

#[test]
fn refused_instructions_name_the_line_and_an_alternative() {
    for (text, message, hint) in REFUSED {
        let bench = Workbench::new();
        bench
            .put("a.html", "A")
            .put("b.html", "B")
            .put("app.wasm", wasm())
            .put("text.wasm", "<html>");
        bench.put("hidden", "x").put(".dockerignore", "hid*").put("cut.wasm", &wasm()[..60]);
        symlink("/etc/passwd", bench.context().join("out")).unwrap();
        let error = bench.dockerfile(text).expect_err(text);
        let got = message_of(&error).replace(bench.context().to_str().unwrap(), "CONTEXT");
        assert_eq!(got, *message, "{text}");
        assert_eq!(error.hint().unwrap_or_default(), *hint, "{text}");
    }
}

#[test]
fn unused_build_arguments_are_reported() {
    let bench = Workbench::new();
    bench.put(
        "Dockerfile",
        "FROM scratch\nARG NAME=tom\nENV CAT=$NAME\nLABEL a=\"$CAT ${NONE:-b}\"\n",
    );
    let built = bench
        .build_with(|input| {
            input.args = [("NAME", "ada"), ("X", "y")].map(|(a, b)| (a.into(), b.into())).into()
        })
        .unwrap();
    let config = bench.config(&built);
    assert_eq!(config.env.unwrap()[1..], ["CAT=ada"]);
    assert_eq!(config.labels.unwrap()["a"], "ada b");
    assert_eq!(
        warnings(&built),
        [
            "the build argument `X` is not used: no ARG of that name",
            "the image names no program: it can be a base for others, and cannot be run"
        ]
    );
}

#[test]
fn variables_resolve_as_in_docker() {
    let host = host_platforms().remove(0);
    let (os, arch, platform) =
        (&host.os, &host.architecture, format!("{}/{}", host.os, host.architecture));
    for (lines, want) in [
        ("FROM scratch\nENV A=1\nARG B=$A\nENV C=$B\n", "A=1 C=1"),
        ("FROM scratch\nARG A=1\nENV B=$A\nARG A=2\nENV C=$A\n", "B=1 C=2"),
        ("FROM scratch\nENV A=1\nARG A=2\nENV B=$A\n", "A=1 B=2"), // the latter one, as in BuildKit
        ("FROM scratch\nENV A=1\nENV A=2 B=$A\n", "A=2 B=1"),
        ("ARG A=1\nFROM scratch\nENV B=$A\n", "B="),
        ("ARG A=1\nFROM scratch\nARG A\nENV B=$A\n", "B=1"),
        ("ARG A=1\nFROM scratch\nARG A=2\nENV B=$A\n", "B=2"),
        ("FROM scratch AS a\nARG A=1\nFROM scratch\nENV B=$A\n", "B="),
        ("FROM scratch AS a\nARG A=1\nFROM a\nENV B=$A\n", "B=1"),
        ("FROM scratch AS a\nARG A=1\nFROM a AS b\nFROM b\nARG A\nENV B=$A\n", "B=1"),
        ("FROM scratch\nENV A=$TARGETARCH\n", "A="),
        ("FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\n", &format!("A={arch}")),
        ("FROM scratch\nARG TARGETARCH=x\nENV A=$TARGETARCH\n", "A=x"),
        ("FROM scratch\nARG GIVEN\nENV A=$GIVEN\n", "A=yes"),
        ("FROM scratch\nARG BUILDOS\nENV A=$BUILDOS\n", "A=given"),
        (
            "FROM --platform=$BUILDPLATFORM scratch\nARG TARGETPLATFORM TARGETOS TARGETVARIANT \
             BUILDPLATFORM\n\
             ENV A=$TARGETPLATFORM B=$TARGETOS C=<$TARGETVARIANT> D=$BUILDPLATFORM\n",
            &format!("A={platform} B={os} C=<> D={platform}"),
        ),
    ] {
        let bench = Workbench::new();
        bench.put("Dockerfile", lines);
        let args = [("GIVEN", "yes"), ("BUILDOS", "given")]
            .map(|(name, value)| (name.into(), value.into()));
        let built = bench
            .build_with(|input| input.args = args.into())
            .unwrap_or_else(|e| panic!("{lines}: {}", message_of(&e)));
        assert_eq!(bench.config(&built).env.unwrap()[1..].join(" "), want, "{lines}");
    }
    for (lines, want) in [
        ("FROM --platform=$NONE scratch\n", "column 6: `` is not a platform like linux/amd64"),
        (
            "FROM --platform=a/b/c/d scratch\n",
            "column 6: `a/b/c/d` is not a platform like linux/amd64",
        ),
        ("FROM --os=linux scratch\n", "column 6: FROM has no `--os`"),
    ] {
        let error = Workbench::new().dockerfile(lines).expect_err(lines).to_string();
        assert_eq!(error, format!("`Dockerfile`, line 1, {want}"), "{lines}");
    }
}

#[test]
fn escape_shell_and_healthcheck_behave_as_in_docker() {
    let bench = Workbench::new();
    bench.put("x", "X").put("shell", "#!/bin/sh\n");
    let config = |text: &str| {
        bench.config(
            &bench.dockerfile(text).unwrap_or_else(|e| panic!("{text}: {}", message_of(&e))),
        )
    };
    let ticked =
        config("# escape=`\nFROM scratch\nENV A=C:\\new B=a`\n  C=x` y D=`$A E=\"q`\"q\\\"\n");
    assert_eq!(ticked.env.unwrap()[1..], [r"A=C:\new", "B=a", "C=x y", "D=$A", "E=q\"q\\"]);
    let ticked = bench.dockerfile("# escape=`\nFROM scratch\nCOPY <<E /n\n\\$A\nE\n").unwrap();
    assert_eq!(bench.files(&ticked), ["n=$A\n"]);

    let base = "FROM scratch AS a\nCOPY shell /bin/ash\nSHELL [\"/bin/ash\", \"-e\", \"-c\"]\n";
    let shelled = config(&format!("{base}ENTRYPOINT run $it\n"));
    assert_eq!(shelled.entrypoint.unwrap(), ["/bin/ash", "-e", "-c", "run $it"]);
    assert_eq!(
        config(&format!("{base}FROM a\nCMD x\n")).cmd.unwrap(),
        ["/bin/ash", "-e", "-c", "x"]
    );
    assert_eq!(
        config("FROM scratch\nCOPY shell /a\nCMD [\"/a\", \"q\\\"q\"]\n").cmd.unwrap(),
        ["/a", "q\"q"]
    );

    let ports = config("FROM scratch\nEXPOSE 80/TCP 53/Udp\n").exposed_ports.unwrap();
    assert_eq!(ports.into_keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
    let built = bench
        .dockerfile(
            "FROM scratch\nHEALTHCHECK --interval=1.5m --timeout=1m30s --start-interval=5s \
            CMD [\"/c\"]\n",
        )
        .unwrap();
    let check = bench.config(&built).healthcheck.unwrap();
    assert_eq!((check.interval, check.timeout), (Some(90_000_000_000), Some(90_000_000_000)));
    assert_eq!(check.start_interval, Some(5_000_000_000));
}

#[test]
fn the_remaining_instructions_set_the_config() {
    let bench = Workbench::new();
    let built = bench
        .dockerfile(
            "FROM scratch\nEXPOSE 80 53/udp 8000-8001\nVOLUME [\"/data\", \"/more\"]\nVOLUME \
             /third\nUSER 1000:cats\n\
             WORKDIR /srv/../app\nSTOPSIGNAL SIGQUIT\nHEALTHCHECK --interval=5s --retries=2 CMD \
             [\"/check\"]\nCMD [\"a\"]\n\
             LABEL margay.wants=\"env:LOG\\nfs:/data#rw;optional\"\nCMD []\n",
        )
        .unwrap();
    let config = bench.config(&built);
    assert_eq!(
        config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(),
        ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]
    );
    assert_eq!(
        config.volumes.unwrap().into_keys().collect::<Vec<_>>(),
        ["/data", "/more", "/third"]
    );
    assert_eq!(
        (config.user.as_deref(), config.working_dir.as_deref()),
        (Some("1000:cats"), Some("/app"))
    );
    assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
    let check = config.healthcheck.unwrap();
    assert_eq!(
        (check.test, check.interval, check.retries),
        (vec!["CMD".into(), "/check".into()], Some(5_000_000_000), Some(2))
    );
    assert_eq!(config.labels.unwrap()["margay.wants"], "env:LOG\nfs:/data#rw;optional");
    assert_eq!(built.wants.len(), 2);
}

const PARTS: &[&str] = &[
    "FROM ",
    "scratch",
    "COPY ",
    "ADD ",
    "ENV ",
    "LABEL ",
    "ARG ",
    "EXPOSE ",
    "WORKDIR ",
    "USER ",
    "VOLUME ",
    "CMD ",
    "ENTRYPOINT ",
    "HEALTHCHECK ",
    "--from=",
    "--chmod=",
    "--interval=",
    "--chown=x ",
    "ONBUILD ",
    "STOPSIGNAL ",
    " AS a",
    "[\"a\", \"b\"]",
    "\"",
    "'",
    "$",
    "${",
    "}",
    ":-",
    ":+",
    "\\",
    "\n",
    "\n",
    "\r\n",
    " ",
    "=",
    "/",
    "..",
    ".",
    "*",
    "[",
    "]",
    "^",
    "?",
    "**",
    "ö",
    "\u{feff}",
    "<<EOF",
    "\nEOF\n",
    "x",
    "0",
    "7777",
    "4294967296",
    "5s",
    "# escape=`\n",
    "#",
    "`",
    "\0",
    "\t",
    "margay.wants=",
    "fs:/a#r",
    ";",
    "a",
];

/// Every Dockerfile gives an image or an error.
#[test]
fn no_dockerfile_makes_the_builder_panic() {
    let bench = Workbench::new();
    bench.put("x", "X").put("a/b", "Y");
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..3_000 {
        let mut text =
            if round % 8 == 0 { String::new() } else { "FROM scratch AS a\n".to_owned() };
        for _ in 0..round % 24 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(PARTS[(state % PARTS.len() as u64) as usize]);
        }
        // Into the parts that write nothing: thousands of images would only wear out the disk.
        let context = Context::open(&bench.context(), &[], Modes::Kept).unwrap();
        let cache = Cache::of(&bench.layout, true);
        let mut spool = Spool::new(bench.layout.store(), Some(&context));
        let input = Input {
            platform: None,
            pull: Pull::Never,
            file: "Dockerfile",
            text: &text,
            context: &context,
            layout: &bench.layout,
            cache: &cache,
            args: &BTreeMap::new(),
            target: None,
            native: &[],
        };
        if let Err(error) = execute::execute(&input, &mut spool) {
            assert!(!error.to_string().is_empty(), "{text:?}");
        }
    }
}

/// Hostile files that ask for more than a machine has.
#[test]
fn a_dockerfile_stays_within_its_limits() {
    let (doubled, label) = ("ENV A=$A$A\n".repeat(64), "x".repeat(60_000));
    let many = |line: &str, count: usize| {
        (0..count).map(|n| line.replace('#', &n.to_string())).collect::<String>()
    };
    for (text, want) in [
        (
            format!("FROM scratch\nENV A=xxxxxxxx\n{doubled}"),
            "with `$A`, variables bring too much text into it: at most 16 MiB",
        ),
        (
            format!(
                "ARG A={}\nFROM scratch\nARG A\nCOPY {} /\n",
                "x".repeat(4000),
                format!("{}\\\n", "$A ".repeat(1000)).repeat(100)
            ),
            "with `$A`, variables bring",
        ),
        (
            format!("FROM scratch\n{}", many("MAINTAINER x\n", 10_001)),
            "it has 10001 instructions, at most 10000",
        ),
        (
            format!("FROM scratch\n{}", many("FROM scratch\n", 100)),
            "it has 101 stages, at most 100",
        ),
        (
            format!("FROM scratch\n{}", many("ENV A#=1\n", 1001)),
            "the image has more than 1000 variables",
        ),
        (
            format!("FROM scratch\n{}", many("COPY x /\n", 500)),
            "the image would have more than 499 layers: COPY more at once",
        ),
        (format!("FROM scratch\nCOPY {} /\n", "x".repeat(5000)), "is longer than any path"),
        (format!("FROM scratch\nWORKDIR /{}\n", "x/".repeat(5000)), "is longer than any path"),
        (format!("FROM scratch\nEXPOSE {}\n", "x".repeat(5000)), "xxx…"),
        (
            format!(
                "FROM scratch\nARG L={label}\nLABEL a={many} b={many} c={many}\n",
                many = "$L".repeat(40)
            ),
            "bytes, and at most 4194304 can be read again",
        ),
    ] {
        let bench = Workbench::new();
        bench.put("x", "X");
        let error = message_of(&bench.dockerfile(&text).map(|built| built.warnings).unwrap_err());
        assert!(
            error.contains(want) && error.len() < 1500,
            "{want}: {}",
            &error[..error.len().min(1500)]
        );
    }
    let bench = Workbench::new();
    bench.put("x", "X");
    let built = bench
        .dockerfile(&format!("FROM scratch\n{}", many("COPY --chown=none:none x /x\n", 200)))
        .unwrap();
    assert_eq!(built.warnings.len(), 101, "with the one about the program");
}

#[test]
fn executables_say_what_an_image_without_a_program_is_for() {
    let bench = Workbench::new();
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 0xb7;
    bench.put("tool", elf);
    bench.put("text", "text");
    for (lines, want) in [
        ("COPY --chmod=755 text /bin/a\nCOPY --chmod=755 tool /bin/tool\n", "linux/arm64"),
        ("COPY --chmod=644 tool /bin/tool\n", "wasi/wasm"),
        ("COPY --chmod=755 text /bin/text\n", "wasi/wasm"),
    ] {
        let built = bench.dockerfile(&format!("FROM scratch\n{lines}")).unwrap();
        let platform = &built.platforms[0];
        assert_eq!(format!("{}/{}", platform.os, platform.architecture), want, "{lines}");
    }
}
