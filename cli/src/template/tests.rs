use serde_json::json;

use super::*;

fn record() -> Value {
    json!({
        "ID": "a1b2c3", "Names": "web", "Ports": "", "Size": 12,
        "Labels": "a=1,b=2", "Label": {"a": "1", "com.x/y": "two"},
        "State": {"Status": "running", "ExitCode": 0, "Running": true},
        "Config": {"Env": ["A=1", "B=2"], "Labels": {"x": "y"}, "User": null},
        "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}},
    })
}

fn rendered(text: &str) -> String {
    match Template::parse(text).and_then(|template| template.render(&record())) {
        Ok(text) => text,
        Err(advice) => match crate::failure::hint(&anyhow::Error::from(advice)) {
            Some(hint) => format!("hint: {hint}"),
            None => "error".to_owned(),
        },
    }
}

#[test]
fn templates_mean_what_they_mean_in_docker() {
    for (text, want) in [
        ("{{.Names}}", "web"),
        ("plain", "plain"),
        (
            "{{json .Names}} {{json .Config.Env}} {{json .Config.User}}",
            r#""web" ["A=1","B=2"] null"#,
        ),
        ("{{json .State}}", r#"{"ExitCode":0,"Running":true,"Status":"running"}"#),
        ("{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}", "running 0 true"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
        ("{{range $i, $e := .Config.Env}}{{$i}}:{{$e}} {{end}}", "0:A=1 1:B=2 "),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if and .State.Running (eq .State.ExitCode 0)}}fine{{end}}", "fine"),
        ("{{with .State}}{{.Status}}{{end}}", "running"),
        ("{{$x := .Names}}{{$x | upper}}", "WEB"),
        ("a {{- .Names -}} b", "awebb"),
        ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
        (
            "{{range $p, $c := .NetworkSettings.Ports}}{{$p}}->{{(index $c 0).HostPort}}{{end}}",
            "80/tcp->8080",
        ),
        ("{{index .Config.Labels \"x\"}}", "y"),
        ("{{.Label \"com.x/y\"}} {{.Label \"a\" | printf \"%q\"}}", "two \"1\""),
        ("{{join .Config.Env \"; \"}}", "A=1; B=2"),
        ("{{index (split .Labels \",\") 1}}", "b=2"),
        ("{{len .Config.Env}} {{len .Names}}", "2 3"),
        ("{{slice .ID 0 3}} {{truncate .ID 2}} {{title \"a bc\"}}", "a1b a1 A Bc"),
        ("[{{pad .ID 1 2}}]", "[ a1b2c3  ]"),
        ("{{printf \"%-6s|%3d\" .Names .Size}}", "web   | 12"),
        ("{{if not .Ports}}none{{end}}{{if or .Ports .ID}} some{{end}}", "none some"),
        ("{{ne .Names \"x\"}} {{lt 1 2}} {{gt 1 2}}", "true true false"),
        ("{{/* a comment */}}x", "x"),
    ] {
        assert_eq!(rendered(text), want, "{text}");
    }
}

#[test]
fn what_a_template_cannot_name_is_said_with_what_it_can() {
    for (text, message, hint) in [
        (
            "{{.Nam}}",
            "`--format`: there is no field `.Nam`",
            "the fields are .Config .ID .Labels .Names .NetworkSettings .Ports .Size .State",
        ),
        (
            "{{.ID}} {{.State.Exit}}",
            "`--format`: there is no field `.State.Exit`",
            "the fields are .ExitCode .Running .Status",
        ),
        (
            "{{with .State}}{{.Exit}}{{end}}",
            "`--format`: there is no field `.Exit`",
            "the fields are .Config .ID .Labels .Names .NetworkSettings .Ports .Size .State",
        ),
    ] {
        let template = Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let error = anyhow::Error::from(template.render(&record()).unwrap_err());
        assert_eq!(error.to_string(), message, "{text}");
        assert_eq!(crate::failure::hint(&error).as_deref(), Some(hint), "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_named_with_its_column() {
    let unknown = Template::parse("{{nofunction .ID}}").and_then(|t| t.render(&record()));
    let unknown = anyhow::Error::from(unknown.unwrap_err());
    assert_eq!(unknown.to_string(), "`--format`: there is no function `nofunction`");
    assert_eq!(crate::failure::code(&unknown), Some(USAGE_ERROR));
    for text in ["{{.ID", "{{if .ID}}x", "{{.ID | }}", "{{end}}"] {
        let error = Template::parse(text).err().unwrap_or_else(|| panic!("{text} was read"));
        let error = anyhow::Error::from(error);
        let message = error.to_string();
        assert!(message.starts_with("`--format`: column "), "{text}: {message}");
        assert_eq!(crate::failure::code(&error), Some(USAGE_ERROR), "{text}");
        assert!(crate::failure::hint(&error).is_some(), "{text}: {message}");
    }
}

#[test]
fn loops_and_texts_have_an_end() {
    let message = |text: &str| {
        let template = Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        template.render(&record()).unwrap_err().to_string()
    };
    let loops = "{{range 1000}}{{range 1000}}{{end}}{{end}}";
    assert_eq!(message(loops), "`--format`: loops end after 100000 rounds");
    let text = format!("{{{{range 90000}}}}{}{{{{end}}}}", "x".repeat(1000));
    assert_eq!(message(&text), "`--format`: the text of a record has 16777216 bytes at most");
    assert!(Template::parse(&"x".repeat(TEMPLATE_BYTES_MAX + 1)).is_err());
}

#[test]
fn a_heading_names_the_fields_of_a_table() {
    let headings = json!({"ID": "TASK ID", "Names": "NAMES", "Size": "SIZE"});
    let headings = headings.as_object().expect("an object");
    for (text, want) in [
        ("{{.ID}}\t{{.Names}}", "TASK ID\tNAMES"),
        ("{{truncate .ID 3}}\t{{upper .Names}}", "TASK ID\tNAMES"),
        ("{{json .Size}}", "SIZE"),
    ] {
        assert_eq!(Template::parse(text).unwrap().heading(headings).unwrap(), want, "{text}");
    }
    assert!(Template::parse("{{.Nope}}").unwrap().check(headings).is_err());
    assert!(Template::parse("{{range .Names}}{{.x}}{{end}}").unwrap().check(headings).is_ok());
}
