//! Decides which nodes run together: a kernel that hosts an epilogue, or a pointwise op, followed by a chain
//! of pointwise ops on the same positions. Where the device can store shuffled values, a pixel shuffle may stand in the
//! chain: what follows it works on the positions behind it. A group runs where its last member stands on the tape.

use super::{PlanOptions, Program, end_values, op_of};
use crate::graph::{Exec, Value};

/// A chain of nodes that run as one step.
#[derive(Clone, Debug)]
pub struct Group {
    /// Nodes in order; each but the first takes the one before as its carrier.
    pub members: Vec<Value>,
    /// For each member after the first, which of its operands is the one before.
    pub carriers: Vec<usize>,
}

impl Group {
    /// The node whose place in the tape is the step's.
    pub fn last(&self) -> Value {
        self.members[self.members.len() - 1]
    }
}

/// Groups of all live nodes that execute something (no views, no concatenations), by place of execution.
pub fn groups(program: &Program, live: &[bool], options: PlanOptions) -> Vec<Group> {
    let tape = &program.tape;
    let last_use = users(program, live);
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of: Vec<Option<usize>> = vec![None; live.len()];
    for i in (0..live.len()).filter(|i| live[*i]) {
        let v = Value::at(i);
        let Some(op) = op_of(tape, v) else { continue };
        let (node, exec) = (tape.node(v), op.exec());
        if matches!(exec, Exec::View(_) | Exec::Concat(_)) {
            continue;
        }
        let carries = |k: usize| match exec {
            Exec::Pointwise(p) => p.may_carry(k) && tape.shape(node.inputs[k]) == node.shape,
            Exec::Kernel(kernel) => options.target.fuses_shuffles() && kernel.shuffle_factor.is_some(),
            Exec::View(_) | Exec::Concat(_) => false,
        };
        let fits = |k: &usize| {
            let g = group_of[node.inputs[*k].index()];
            carries(*k) && g.is_some_and(|g| can_join(program, &groups[g], &group_of, g, v, *k, &last_use))
        };
        // The latest operand is the one that is still in cache.
        let operands = 0..if options.fuse { node.inputs.len() } else { 0 };
        let joined = operands.filter(fits).max_by_key(|k| node.inputs[*k]);
        match joined {
            Some(k) => {
                let g = group_of[node.inputs[k].index()].unwrap_or_default();
                groups[g].members.push(v);
                groups[g].carriers.push(k);
                group_of[i] = Some(g);
            }
            None => {
                group_of[i] = Some(groups.len());
                groups.push(Group { members: vec![v], carriers: vec![] });
            }
        }
    }
    groups.sort_by_key(Group::last);
    groups
}

/// Positions of all users of every node; reading after the last step counts as position `usize::MAX`.
fn users(program: &Program, live: &[bool]) -> Vec<Vec<usize>> {
    let mut users = vec![Vec::new(); live.len()];
    for (i, node) in program.tape.nodes().iter().enumerate().filter(|(i, _)| live[*i]) {
        node.inputs.iter().for_each(|v| users[v.index()].push(i));
    }
    end_values(program).for_each(|v| users[v.index()].push(usize::MAX));
    users
}

/// Whether node `v` may run at the end of `group`, taking its tail as operand `k`.
fn can_join(
    program: &Program,
    group: &Group,
    group_of: &[Option<usize>],
    id: usize,
    v: Value,
    k: usize,
    users: &[Vec<usize>],
) -> bool {
    let tape = &program.tape;
    let node = tape.node(v);
    if node.inputs[k] != group.last() {
        return false;
    }
    let hosts = match op_of(tape, group.members[0]).map(|op| op.exec()) {
        Some(Exec::Kernel(kernel)) => kernel.hosts_epilogue,
        Some(Exec::Pointwise(_)) => true,
        _ => false,
    };
    // The group moves to where `v` stands: nobody else may need its values before.
    let waits = group.members.iter().all(|m| users[m.index()].iter().all(|u| *u >= v.index() || in_group(*u, group)));
    hosts
        && waits
        && node.inputs.iter().enumerate().all(|(i, operand)| i == k || !comes_from(program, group_of, id, *operand))
}

/// Whether memory of group `id` shows through `operand`. Other operands must be in memory before a step starts,
/// so none may come from the step itself.
fn comes_from(program: &Program, group_of: &[Option<usize>], id: usize, operand: Value) -> bool {
    let through = match op_of(&program.tape, operand).map(|op| op.exec()) {
        Some(Exec::View(_) | Exec::Concat(_)) => program.tape.node(operand).inputs.as_slice(),
        _ => &[],
    };
    group_of[operand.index()] == Some(id) || through.iter().any(|v| comes_from(program, group_of, id, *v))
}

fn in_group(position: usize, group: &Group) -> bool {
    group.members.iter().any(|m| m.index() == position)
}
