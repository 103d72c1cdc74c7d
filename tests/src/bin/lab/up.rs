//! `lab up`: start everything, say what can be done, show what happens.

use std::time::Duration;

use anyhow::Result;
use lb_tests::binaries;
use lb_tests::deployment::Deployment;
use lb_tests::lab::{Spec, address};
use lb_tests::patience::{interrupted, pause};

use crate::revival::{REST, Revival};
use crate::view::{Scene, View};

/// How many nodes the lab has.
pub const NODES: usize = 3;
/// Between two looks at the state of things.
const REFRESH: Duration = Duration::from_millis(500);

/// Runs the lab until Ctrl-C.
pub fn up() -> Result<()> {
    let mut view = View::new();
    let deployment = Deployment::start_with(
        &Spec::interactive(NODES),
        |_| {},
        |next| view.say(&format!("{next} …")),
    )?;
    let ended = stay(deployment, &mut view);
    view.say("everything was removed");
    ended
}

/// From the guide to the end of it all, whatever ends it.
fn stay(mut deployment: Deployment, view: &mut View) -> Result<()> {
    println!("{}", guide(&deployment)?);
    watch(&mut deployment, view)?;
    view.say("leaving …");
    deployment.leave()
}

/// Shows what happens, and starts again what has died.
fn watch(deployment: &mut Deployment, view: &mut View) -> Result<()> {
    let mut revival = Revival::new();
    while !interrupted() {
        revival.look(deployment, view)?;
        match deployment.balancer.status() {
            Ok(status) => {
                revival.lb_answers(&deployment.balancer, view);
                view.show(&Scene::new(&status, &deployment.cluster));
            }
            Err(_) => view.show_silence(),
        }
        pause(REFRESH);
    }
    Ok(())
}

/// What a user can do now.
fn guide(deployment: &Deployment) -> Result<String> {
    let cluster = &deployment.cluster;
    let leader = cluster.wait_for_leader(None, Duration::from_secs(5))?;
    let pid = cluster.pid(leader).unwrap_or_default();
    let (write, read) = (address::WRITE, address::READ);
    let lb = binaries::find("lb")?;
    let lb = lb.display();
    let raft_node = binaries::find("raft-node")?;
    let raft_node = raft_node.display();
    let socket = deployment.balancer.socket();
    let socket = socket.display();
    let agent = deployment.balancer.pid().unwrap_or_default();
    let logs = deployment.lab.run_directory().display();
    Ok(format!(
        r#"
The lab is up. In another terminal of this machine, as root:

  write (to the leader)    curl -i http://{write}/kv -H 'content-type: application/json' -d '{{"key":"greeting","value":"hello"}}'
  read (from a replica)    curl -i http://{read}/kv/greeting
  who answers?             for i in 1 2 3 4 5 6; do curl -s http://{read}/whoami; echo; done
  with retries             {raft_node} client --endpoint http://{write} put greeting hello

  what lb believes         {lb} status --socket {socket}
  what it has done         {lb} stats --socket {socket}
  who is connected         {lb} flows --socket {socket}

  kill the leader (n{leader})     kill -9 {pid}      it is started again after {REST:?}
  make it hang, and go on  kill -STOP {pid};  kill -CONT {pid}      (who leads later, and its pid: below)
  kill lb, the agent       kill -9 {agent}      the kernel goes on steering; it is started again after {REST:?}, and adopts
  look around inside       ip netns exec lb-client bash      (lb-balancer, lb-n1 … lb-n{NODES}, lb-switch)
  configuration and logs   {logs}

Ctrl-C ends it and removes everything.
"#
    ))
}
