mod fixture; // a registry to test against, and images to move
mod proxy; // a network with faults

mod accounts;
mod audit; // what is recorded of every request
mod api; // endpoints, as any client sees them
mod rights; // authorization of every route
mod observed; // metrics and the access log
mod administration; // over the network, and passwords with each request
mod teams; // organisations, teams and policies
mod transfer; // push and pull, also over a network with faults
mod process; // a registry that is killed
mod crash; // within pushes, pulls, deletions, collections and scrubs
mod killed; // within retention, backup and restore
mod power; // a machine that loses it
mod disk; // a full disk
mod deletion; // of everything, also on a full disk
mod images; // what is read in images that were pushed
mod vulnerabilities; // what is published, and what follows from it
mod scans; // which software is in images that were pushed
mod signatures; // images that are signed, and those that have to be
mod webhooks; // what they are told, and what they may not be
mod replication; // what goes to other registries
mod upstreams; // what is fetched when it is pulled
mod quotas; // of accounts and repositories, and open uploads
mod damage; // what a disk has lost or changed
mod backup; // everything in a folder, and back
mod retention;
mod rules; // switches and immutable tags
mod collect; // what no manifest names, while requests go on
