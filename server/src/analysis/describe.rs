//! Describe: what a session would cost.

use noised::analysis::{Description, Growth, TreeDescription, describe};
use noised::{Shard, Tree};
use noised_proto::{ServiceError, precision, v1};

use super::{AnalysisService, required};

impl AnalysisService {
    pub(super) async fn description(
        &self,
        request: v1::DescribeRequest,
    ) -> Result<v1::DescribeResponse, ServiceError> {
        let v1::DescribeRequest { matrix, tree, shard, precision: format } = request;
        let description = self.run(move |_| {
            let matrix = required(matrix)?;
            let tree = tree.map(Tree::try_from).transpose()?;
            let shard = shard.map_or(Ok(Shard::WHOLE), Shard::try_from)?;
            describe(&matrix, tree.as_ref().map(|tree| (tree, shard)), precision(format)?)
        });
        Ok(encode(description.await?))
    }
}

fn encode(description: Description) -> v1::DescribeResponse {
    let Description { planes, planes_read, planes_written, toeplitz, horizon, precision, growth, tree } =
        description;
    let Growth { steps, relative_error, sound_steps, overflows } = growth;
    let mut response = v1::DescribeResponse {
        planes: planes as u64,
        planes_read: planes_read as u64,
        planes_written: planes_written as u64,
        toeplitz,
        horizon,
        precision: v1::Precision::from(precision).into(),
        growth: Some(v1::Growth { steps, relative_error, sound_steps, overflows }),
        ..v1::DescribeResponse::default()
    };
    if let Some(tree) = tree {
        let TreeDescription { lanes, step_bytes, state_bytes, memory_bytes, moved_bytes_per_step } = tree;
        response.lanes = Some(lanes);
        response.step_bytes = Some(step_bytes);
        response.state_bytes = Some(state_bytes);
        response.memory_bytes = Some(memory_bytes);
        response.moved_bytes_per_step = Some(moved_bytes_per_step);
    }
    response
}
