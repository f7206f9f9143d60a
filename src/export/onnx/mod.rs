//! A generator as an ONNX graph: input `lr` [batch, bands, height, width], for the stochastic generator also `noise`
//! [batch, noise_dim]; output `sr`. Batch, height and width are open. Metadata: the facts of [`Description::facts`], and
//! whether pixels are normalised outside (`pixels: normalised`) or inside (`pixels: raw`), and the vector that `srgan
//! predict` gives the stochastic generator (`noise`).

mod graph;
mod proto;

use std::collections::HashMap;
use std::path::Path;

use prost::Message;

use super::state_dict::Description;
use crate::files::write_atomic;
use crate::graph::OnnxChain;
use crate::nn::{self, Network};
use crate::train::programs::Programs;
use crate::trained::{Weights, map_noise};
use crate::types::DType;
use crate::{Error, Result};
use graph::{GraphBuilder, Outside, States};
use proto::{IR_VERSION, ModelProto, OPSET, OperatorSetIdProto, StringStringEntryProto};

/// A protobuf message has at most this many bytes.
const MAX_MESSAGE: usize = i32::MAX as usize;
/// Rows and columns of the program that is written; the graph is open in both.
const SIZE: (usize, usize) = (32, 32);

/// Writes the file whole or not at all.
///
/// # Errors
/// [`Error::Data`] if the weights do not fit into one file; [`Error::Io`].
pub(super) fn write(
    path: &Path,
    programs: &Programs,
    weights: &Weights,
    description: &Description,
    normalise: bool,
) -> Result<()> {
    let bytes = model(programs, weights, description, normalise)?.encode_to_vec();
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::data(path, "an ONNX file holds at most 2 GiB, and this network has more weights"));
    }
    write_atomic(path, |out| out.write_all(&bytes))
}

/// The message of a file.
fn model(programs: &Programs, weights: &Weights, description: &Description, normalise: bool) -> Result<ModelProto> {
    let layout = programs.layout(Network::Generator);
    let mut states: States = HashMap::from([(layout.params_state(), weights.params.as_slice())]);
    states.extend(layout.buffers.iter().zip(&weights.buffers).map(|(b, values)| (b.name.clone(), values.as_slice())));
    let (program, outside) = match normalise {
        false => (programs.forward(1, SIZE)?, Outside::default()),
        true => {
            let data = &description.cfg.data;
            let (scale, offset) = (data.scale as f32, data.offset as f32);
            let first = OnnxChain::default().then("Mul", scale).then("Add", offset).nodes();
            let last = programs.normalization()?.denormalize_in_onnx().then("Sub", offset).then("Div", scale).nodes();
            (programs.predict(1, SIZE, DType::F32)?.0, Outside { first, last })
        }
    };
    let graph = GraphBuilder::new(&program.tape, &states, &outside).write(program.outputs[0].1, "sr")?;
    let pixels = ("pixels", if normalise { "raw" } else { "normalised" }.to_owned());
    let noise = nn::is_stochastic(&description.cfg).then(|| ("noise", listed(&map_noise(&description.cfg, 1))));
    let facts = description.facts().into_iter().chain([pixels]).chain(noise);
    let metadata_props = facts.map(|(key, value)| StringStringEntryProto { key: key.into(), value }).collect();
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "srgan".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props,
    })
}

/// Numbers with commas between them; each reads back as the same f32.
fn listed(numbers: &[f32]) -> String {
    numbers.iter().map(f32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::proto::{Extent, FLOAT, GraphProto};
    use super::*;
    use crate::checkpoint::Counters;
    use crate::config::Config;

    /// A generator of each kind, as small as it can be.
    const GENERATORS: [&str; 7] = [
        "{model_type: SRResNet, block_type: standard, n_channels: 4, n_blocks: 1, scaling_factor: 8}",
        "{model_type: SRResNet, block_type: res, n_channels: 4, n_blocks: 1, scaling_factor: 2}",
        "{model_type: SRResNet, block_type: rcab, n_channels: 16, n_blocks: 1, scaling_factor: 2}",
        "{model_type: SRResNet, block_type: rrdb, n_channels: 4, n_blocks: 1, scaling_factor: 4}",
        "{model_type: SRResNet, block_type: lka, n_channels: 4, n_blocks: 1, scaling_factor: 2}",
        "{model_type: esrgan, n_channels: 4, growth_channels: 3, n_blocks: 1, scaling_factor: 1}",
        "{model_type: stochastic_gan, n_channels: 4, n_blocks: 1, noise_dim: 5, scaling_factor: 2}",
    ];

    fn written(generator: &str, normalise: bool) -> (ModelProto, usize) {
        let yaml = format!(
            "Data: {{dataset_type: Scenes, scenes: [s.npy], hr_size: 16, normalization: normalise_10k_signed, scale: 2}}\n\
             Model: {{in_bands: 3}}\nGenerator: {generator}\nDiscriminator: {{model_type: patchgan, n_blocks: 1}}\n"
        );
        let (cfg, _) = Config::from_yaml(&yaml, None, &[]).unwrap();
        let programs = Programs::new(cfg.clone()).unwrap();
        let layout = programs.layout(Network::Generator);
        let buffers = layout.buffers.iter().map(|b| b.initial(1)).collect();
        let weights = Weights { params: layout.initial_params(1), buffers };
        let bands = ["B04", "B03", "B02"].map(str::to_owned).to_vec();
        let counters = Counters::default();
        let description = Description { cfg, bands, step: 7, epoch: 1, counters, averaged: true };
        let bytes = model(&programs, &weights, &description, normalise).unwrap().encode_to_vec();
        (ModelProto::decode(bytes.as_slice()).unwrap(), layout.param_count())
    }

    /// Every name is given once and before it is read, and all of them lead to the output.
    fn assert_sound(graph: &GraphProto) {
        let mut known: HashSet<&str> = HashSet::new();
        let given = graph.input.iter().map(|i| &i.name).chain(graph.initializer.iter().map(|t| &t.name));
        given.for_each(|name| assert!(known.insert(name), "{name} is given twice"));
        let mut read: HashSet<&str> = HashSet::new();
        for node in &graph.node {
            for input in &node.input {
                assert!(known.contains(input.as_str()), "{} reads {input} before it is there", node.name);
                read.insert(input);
            }
            node.output.iter().for_each(|name| assert!(known.insert(name), "{name} is given twice"));
        }
        let unread: Vec<_> = known.difference(&read).collect();
        assert_eq!(unread, [&"sr"]);
        for tensor in &graph.initializer {
            let width = if tensor.data_type == FLOAT { 4 } else { 8 };
            let count: i64 = tensor.dims.iter().product();
            assert_eq!(tensor.raw_data.len() as i64, count * width, "{}", tensor.name);
        }
    }

    fn sizes(info: &proto::ValueInfoProto) -> Vec<String> {
        let shape = info.r#type.clone().unwrap().tensor_type.unwrap().shape.unwrap();
        let size = |extent: Option<Extent>| match extent.unwrap() {
            Extent::Fixed(n) => n.to_string(),
            Extent::Open(name) => name,
        };
        shape.dim.into_iter().map(|dim| size(dim.extent)).collect()
    }

    #[test]
    fn every_generator_is_a_sound_graph_open_in_batch_and_size() {
        for generator in GENERATORS {
            for normalise in [false, true] {
                let (model, params) = written(generator, normalise);
                let graph = model.graph.unwrap();
                assert_sound(&graph);
                assert_eq!(sizes(&graph.input[0]), ["batch", "3", "height", "width"], "{generator}");
                assert_eq!(sizes(&graph.output[0])[..2], ["batch", "3"]);
                let noise = generator.contains("stochastic").then(|| sizes(&graph.input[1]));
                assert_eq!(noise, generator.contains("stochastic").then(|| vec!["batch".into(), "5".to_owned()]));
                assert_eq!(graph.input.len(), 1 + usize::from(noise.is_some()));
                // Weights are there once: no slice of the flat state beside its parts.
                let floats = graph.initializer.iter().filter(|t| t.data_type == FLOAT);
                let count: usize = floats.map(|t| t.raw_data.len() / 4).sum();
                assert!(count >= params && count <= params + 200, "{generator}: {count} of {params}");
            }
        }
    }

    #[test]
    fn facts_are_in_the_metadata() {
        let (model, _) = written(GENERATORS[6], true);
        let fact = |key: &str| model.metadata_props.iter().find(|p| p.key == key).map(|p| p.value.clone());
        assert_eq!(fact("bands").unwrap(), "B04,B03,B02");
        assert_eq!(fact("scale").unwrap(), "2");
        assert_eq!(fact("normalisation").unwrap(), "normalise_10k_signed");
        assert_eq!(fact("pixels").unwrap(), "raw");
        assert_eq!(fact("noise").unwrap().split(',').count(), 5);
        assert!(fact("config").unwrap().contains("model_type: stochastic_gan"));
        assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
    }
}
