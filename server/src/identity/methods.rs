//! Which role may call which method: the one table.

use noised_proto::access::Role;

/// How the path of every method begins that is in the table.
const OWN: &str = "/noised.";

const TRAINER: &[Role] = &[Role::Trainer];
const TRAINER_OR_OPERATOR: &[Role] = &[Role::Trainer, Role::Operator];
const TRAINER_OR_ANALYST: &[Role] = &[Role::Trainer, Role::Analyst];

/// The table. Rights are looked at where a request is read.
const TABLE: &[(&str, &[Role])] = &[
    ("/noised.v1.Sessions/CreateSession", TRAINER),
    ("/noised.v1.Sessions/GetSession", TRAINER_OR_OPERATOR),
    ("/noised.v1.Sessions/ListSessions", TRAINER_OR_OPERATOR),
    ("/noised.v1.Sessions/DeleteSession", TRAINER_OR_OPERATOR),
    ("/noised.v1.Sessions/KeepState", TRAINER),
    ("/noised.v1.Sessions/RewindSession", TRAINER),
    ("/noised.v1.Sessions/MultiplyNext", TRAINER),
    ("/noised.v1.Sessions/StreamMultiplyNext", TRAINER),
    ("/noised.v1.Analysis/Materialize", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/RowNormsSquared", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/Multiply", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/Describe", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/ComputeErrors", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/ComputeSensitivity", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/OptimizeStrategy", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/RecommendStrategy", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/FinishSearch", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/CalibrateNoise", TRAINER_OR_ANALYST),
    ("/noised.v1.Analysis/ComputePrivacy", TRAINER_OR_ANALYST),
];

/// The roles that may call the method of a path; `None` where every known caller may, as with reflection. A
/// method of noised that is not in the table is for nobody.
pub(super) fn roles(path: &str) -> Option<&'static [Role]> {
    match TABLE.iter().find(|(of, _)| *of == path) {
        Some((_, roles)) => Some(roles),
        None => path.starts_with(OWN).then_some(&[]),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_protocol_is_in_the_table() {
        let set = FileDescriptorSet::decode(noised_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut methods = Vec::new();
        for file in set.file.iter().filter(|file| file.package().starts_with("noised.")) {
            for service in &file.service {
                let path = |name| format!("/{}.{}/{name}", file.package(), service.name());
                methods.extend(service.method.iter().map(|method| path(method.name())));
            }
        }
        let mut table: Vec<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        methods.sort();
        table.sort();
        assert_eq!(methods, table);
    }

    #[test]
    fn what_is_not_in_the_table_is_for_nobody() {
        assert_eq!(roles("/noised.v1.Sessions/ReadKey"), Some(&[][..]));
        assert_eq!(roles("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), None);
    }
}
