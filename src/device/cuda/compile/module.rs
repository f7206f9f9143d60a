//! The text of modules: headers, the kernel's file, its argument struct, its entry.

use std::fmt::Write as _;

use crate::device::cuda::driver::ModuleSource;
use crate::device::cuda::launch::KernelLaunch;
use crate::device::cuda::launch::args::ArgsContent;
use crate::device::cuda::launch::finish::table_sizes;
use crate::device::cuda::sources::{FILES, POINTWISE, include};

/// Headers of every module, in order.
const HEADERS: [(&str, &str); 7] = [
    include::BF16_CUH,
    include::VIEW_CUH,
    include::TILES_CUH,
    include::PIPELINE_CUH,
    include::REDUCE_CUH,
    include::COLUMNS_CUH,
    include::POINTWISE_CUH,
];

/// The index of a pointwise function, by its name.
pub(crate) fn pointwise_index(name: &str) -> Option<usize> {
    POINTWISE.iter().position(|(function, _)| *function == name)
}

/// The text of all kernels: what is said of them holds for this text.
pub(crate) fn all_kernels() -> ModuleSource {
    let text = HEADERS.iter().chain(FILES).map(|(_, body)| *body).collect();
    ModuleSource { name: "all".to_owned(), text, kernels: vec![] }
}

/// The module of a launch, and the content of its argument struct.
pub(crate) fn module(launch: &KernelLaunch, specialise: bool) -> (ModuleSource, ArgsContent) {
    let (args, content) = launch.args.clone().fixed("THREADS", launch.threads).render(specialise);
    let mut text = String::new();
    let mut part = |name: &str, body: &str| {
        let _ = writeln!(text, "#line 1 \"kernels/{name}\"\n{body}");
    };
    HEADERS.iter().for_each(|(name, body)| part(&format!("include/{name}"), body));
    // A file of pointwise functions may hold kernels too: each file is included once.
    let mut files = vec![launch.file];
    if launch.args.has_finish() {
        files.extend(POINTWISE.iter().map(|(_, file)| *file).filter(|file| *file != launch.file));
        files.dedup();
    }
    let body = |stem: &str| FILES.iter().find(|(name, _)| *name == stem).map_or("", |(_, body)| *body);
    for file in &files[1..] {
        part(&format!("{file}.cu"), body(file));
    }
    if launch.args.has_finish() && !specialise {
        part("generated/pointwise.cuh", &dispatcher());
        part("include/finish.cuh", include::FINISH_CUH.1);
    }
    part(&format!("{}.cu", launch.file), body(launch.file));
    // A namespace of its own: the entry has the kernel's name.
    let name = launch.kernel;
    let text = format!(
        "namespace kernels {{\n{text}\n#line 1 \"arguments of {name}\"\n{args}}}\nusing kernels::Args;\n\
         ENTRY({name}, kernels::{name}, Args, {})\n",
        launch.threads
    );
    (ModuleSource { name: name.to_owned(), text, kernels: vec![name.to_owned()] }, content)
}

/// `pointwise_function(index, in, k)`, and the sizes of the table that holds indices.
fn dispatcher() -> String {
    let mut text = table_sizes();
    text.push_str("__device__ inline float pointwise_function(int index, const float* in, const float* k) {\n");
    text.push_str("  switch (index) {\n");
    for (i, (function, _)) in POINTWISE.iter().enumerate() {
        let _ = writeln!(text, "    case {i}: return {function}(in, k);");
    }
    text.push_str("    default: return in[0];\n  }\n}\n");
    text
}
