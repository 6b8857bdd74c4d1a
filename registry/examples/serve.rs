//! A registry and nothing else: `serve DATA_DIR HOST:PORT [USER PASSWORD [PUBLIC_REPOSITORY]...]`.
//!
//! Useful to try a client against. `margay registry` is the same thing with a supervisor around it.
use std::{env, error::Error};

use registry::{Admin, Config, Existing, Server, Visibility};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [data_dir, address, rest @ ..] = arguments.as_slice() else {
        return Err("usage: serve DATA_DIR HOST:PORT [USER PASSWORD [PUBLIC_REPOSITORY]...]".into());
    };
    let server = Server::open(Config::new(data_dir)).await?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    let serving = tokio::spawn(server.serve(listener, interrupted));
    if let [user, password, public @ ..] = rest {
        let admin = Admin::new(data_dir);
        admin.put_user(&user.parse()?, password, Existing::Any).await?;
        for repository in public {
            admin.set_visibility(&repository.parse()?, Visibility::Public).await?;
        }
    }
    Ok(serving.await??)
}
