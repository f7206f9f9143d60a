//! Steps by a library's call: the description of the call says all there is to it, so that plain loops over it compute
//! the op's reference.

use super::*;
use crate::device::cuda::host::Libraries;
use crate::graph::Exec;
use crate::runtime::Device;
use crate::types::Precision;

pub(super) const FASTER: HostOptions = HostOptions {
    order: ThreadOrder::Forward,
    os_threads: 1,
    sanitize: false,
    portable_fibers: false,
    libraries: Libraries::Faster,
    warpgroups: false,
    specialise: false,
};

fn has_library(case: &Case) -> bool {
    matches!(case.op.exec(), Exec::Kernel(kernel) if kernel.library.is_some())
}

#[test]
fn described_calls_compute_the_references() {
    let cases: Vec<Case> = all_cases().into_iter().chain(random_cases(4)).filter(has_library).collect();
    for (case, strided) in cases.iter().flat_map(|case| [(case, false), (case, true)]) {
        let mut device = on_host(FASTER);
        let (got, want) = run_on(&mut device, case, strided);
        let what = format!("{:?} of {:?} strided {strided}", case.op, case.inputs);
        assert_close(&got, &want, 3e-6, &what);
        let choices = device.choices().unwrap().algorithms();
        assert_eq!(choices.values().collect::<Vec<_>>(), ["host:plain"], "{what}: {choices:?}");
    }
}

#[test]
fn described_calls_on_bf16_compute_the_references() {
    let mut low = 0;
    for case in all_cases().iter().filter(|case| has_library(case)) {
        for strided in [false, true] {
            let (read, written) = super::super::precision::check(case, Precision::Bf16, FASTER, strided);
            low += usize::from(read && written);
        }
    }
    assert!(low > 10, "{low} cases read and wrote bf16");
}
