//! The cats page and a picture of about 100 KB through `httpd`, beside nginx with the same files.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    load::{self, Server},
    machine,
    measure::{self, Contender},
    platform::{Margay, samples},
};

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(3);

/// margay's httpd in Wasm, and nginx with one worker.
pub fn run(margay: &Margay) -> Result<()> {
    let Some(wrk) = machine::peer("wrk", "apt-get install wrk") else { return Ok(()) };
    let Some(nginx) = machine::peer("nginx", "apt-get install nginx-light") else { return Ok(()) };
    margay.build("httpd")?;
    margay.build("cats")?;
    let www = samples().join("cats/www").canonicalize()?;
    let picture = picture(&www)?;
    let (margay_port, nginx_port) = (load::free_port()?, load::free_port()?);
    let folder = tempfile::tempdir()?;
    let config = configure_nginx(folder.path(), nginx_port, &www)?;
    let servers = [
        Server::start(&mut margay.pinned([
            "run",
            "--rm",
            "-p",
            &format!("127.0.0.1:{margay_port}:80"),
            "cats",
        ]))?,
        Server::start(
            machine::pinned(0, &nginx).arg("-c").arg(&config).arg("-p").arg(folder.path()),
        )?,
    ];
    let mut rows = Vec::new();
    for (what, path) in [("the page", String::new()), ("the picture", picture)] {
        let urls = [margay_port, nginx_port].map(|port| format!("http://127.0.0.1:{port}/{path}"));
        for url in &urls {
            load::wait_for(url)?;
        }
        let contenders = urls
            .iter()
            .zip(["margay", "nginx"])
            .map(|(url, name)| {
                Contender::new(name, || Ok(load::wrk(&wrk, url, CONNECTIONS, ROUND)?.rate))
            })
            .collect();
        let results = measure::in_turn(ROUNDS, contenders)?;
        let [(_, margay), (_, nginx)] = results.as_slice() else {
            unreachable!("two contenders went in")
        };
        rows.push([
            format!("{what} (/{path})"),
            margay.show("req/s"),
            nginx.show("req/s"),
            format!("{:.2}", margay.median() / nginx.median()),
        ]);
    }
    measure::table(
        ["64 connections, 1 core", "margay run cats", "nginx, 1 worker", "margay / nginx"],
        &rows,
    );
    drop(servers);
    Ok(())
}

/// The picture whose size is closest to 100 KB.
fn picture(www: &Path) -> Result<String> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut folders = vec![www.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => found.push((entry.metadata()?.len().abs_diff(100 << 10), entry.path())),
            }
        }
    }
    let (_, path) = found.into_iter().min().context("no file in samples/cats/www")?;
    Ok(path.strip_prefix(www)?.to_str().context("a path in UTF-8")?.to_owned())
}

fn configure_nginx(folder: &Path, port: u16, www: &Path) -> Result<PathBuf> {
    let config = folder.join("nginx.conf");
    let (root, own) = (www.display(), folder.display());
    std::fs::write(
        &config,
        format!(
            "daemon off; worker_processes 1; pid {own}/pid; error_log {own}/error.log; user root;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ include /etc/nginx/mime.types; access_log off; sendfile on; keepalive_requests 1000000;\n\
             server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
        ),
    )?;
    Ok(config)
}
