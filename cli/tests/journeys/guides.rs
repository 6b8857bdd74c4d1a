//! The guides of five languages and of the registry: every command of theirs runs as it stands on
//! the page, and every source that they show is the one that `init` writes. A language whose tools
//! are missing says so.

use std::fs;

use crate::{recipe::Recipe, stage::Stage};

fn follow(language: &str) {
    let stage = Stage::new();
    let page = Recipe::of(&format!("docs/guide-{language}.md"));
    if page.follow(&stage, "", language) {
        for (file, text) in page.files() {
            let written = fs::read_to_string(stage.path(file)).expect(file);
            assert_eq!(text, written, "{} shows another `{file}`", page.name);
        }
    }
    stage.is_empty();
}

#[test]
fn the_guide_of_rust_works_as_it_stands() {
    follow("rust");
}

#[test]
fn the_guide_of_go_works_as_it_stands() {
    follow("go");
}

#[test]
fn the_guide_of_c_works_as_it_stands() {
    follow("c");
}

#[test]
fn the_guide_of_javascript_works_as_it_stands() {
    follow("javascript");
}

#[test]
fn the_guide_of_python_works_as_it_stands() {
    follow("python");
}

#[test]
fn the_guide_of_the_registry_works_as_it_stands() {
    follow("registry");
}
