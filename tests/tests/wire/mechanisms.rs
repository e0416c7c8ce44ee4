//! Errors, sensitivities, designs and calibration over gRPC: the answers of this process, whatever is asked.

use std::time::Duration;

use noised::accounting::{Asked, Question, Sampling, Wanted};
use noised::analysis::calibration::PrivacyTarget;
use noised::analysis::{self, Given, Mechanism, Participation};
use noised::design::{self, Family, Objective, Problem, Verdict};
use noised::{MatrixSpec, matrix::strategy};
use noised_client::Error;
use noised_proto::parts::Incoming;
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::server::{Server, on_both, within_patience};
use noised_tests::specs;
use noised_tests::wire::{assert_invalid, report};
use tonic::{Code, Status};

fn problem(n: u64) -> Problem {
    Problem { n, participation: Participation::Single, objective: Objective::Mean, workload: None }
}

fn momentum() -> MatrixSpec {
    MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: Some(vec![1.0, 0.5, 0.25]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_sensitivities_are_those_of_this_process() {
    on_both(Options::default(), async |server: &mut Server| {
        let client = server.client().await.analysis();
        let strategies = [
            strategy::banded_square_root(4, None).unwrap(),
            specs::blt(&[0.9, 0.5], &[0.1, 0.2]),
            strategy::column_normalized_banded(40, 3).unwrap(),
            MatrixSpec::Identity,
        ];
        for strategy in &strategies {
            let noising = strategy.clone().inverse();
            for workload in [None, Some(momentum())] {
                for mechanism in [Mechanism::Strategy(strategy), Mechanism::NoisingMatrix(&noising)] {
                    let here = analysis::query_errors(mechanism, workload.as_ref(), 40, &|| false).unwrap();
                    let there = client.query_errors(mechanism, workload.as_ref(), 40).await.unwrap();
                    assert_eq!(there, here);
                }
            }
            for participation in [
                Participation::Single,
                Participation::MinSep { min_sep: 5, max_participations: Some(3) },
                Participation::MinSep { min_sep: 1, max_participations: None },
                Participation::FixedEpochs { epochs: 4 },
            ] {
                let here = analysis::sensitivity(strategy, 40, participation, &|| false).unwrap();
                assert_eq!(client.sensitivity(strategy, 40, participation).await.unwrap(), here);
            }
        }
        for given in [
            Given::Target(PrivacyTarget::ApproximateDp { epsilon: 2.0, delta: 1e-6 }),
            Given::Target(PrivacyTarget::ZeroConcentratedDp { rho: 0.5 }),
            Given::Target(PrivacyTarget::GaussianDp { mu: 0.5 }),
            Given::NoiseMultiplier(3.0),
        ] {
            let here = analysis::calibrate(given, 2.5, None).unwrap();
            assert_eq!(client.calibrate(given, 2.5, None).await.unwrap(), here);
        }
    })
    .await;
}

/// More numbers than a message holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_come_in_messages() {
    on_both(Options::default(), async |server: &mut Server| {
        let n = 1_000_000;
        let (matrix, client) = (MatrixSpec::PrefixSum, server.client().await.analysis());
        let norms = client.row_norms_squared(&matrix, n).await.unwrap();
        assert_eq!(norms.way, analysis::Way::Toeplitz);
        assert!((1..=n).zip(&norms.values).all(|(row, &norm)| norm == row as f64));
        let request = v1::ComputeErrorsRequest {
            mechanism: Some(v1::compute_errors_request::Mechanism::NoisingMatrix(
                (&MatrixSpec::Identity).into(),
            )),
            n,
            ..v1::ComputeErrorsRequest::default()
        };
        for summary_only in [true, false] {
            let request = v1::ComputeErrorsRequest { summary_only, ..request.clone() };
            let mut answers = server.analysis().await.compute_errors(request).await.unwrap().into_inner();
            let (mut messages, mut queries) = (0, 0);
            while let Some(answer) = answers.message().await.unwrap() {
                let summary = answer.summary.map(|summary| (summary.max, summary.last));
                assert_eq!(summary, (messages == 0).then_some((n as f64, n as f64)));
                assert_eq!(answer.first_query, queries);
                queries += answer.per_query.len() as u64;
                messages += 1;
            }
            assert_eq!((messages > 10, queries), if summary_only { (false, 0) } else { (true, n) });
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn designs_are_those_of_this_process() {
    let options = Options { max_message_bytes: Some(bytesize::ByteSize::kib(512)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let client = server.client().await.analysis();
        for family in [
            Family::BandedToeplitz { bands: 3 },
            Family::BandedInverseToeplitz { bands: 3 },
            Family::BufferedToeplitz { buffers: Some(2) },
            Family::ColumnNormalizedBanded { bands: 3 },
            // Larger than a message.
            Family::ColumnNormalizedBanded { bands: 8 },
            Family::Dense,
        ] {
            let n = if family == (Family::ColumnNormalizedBanded { bands: 8 }) { 10_000 } else { 24 };
            let problem = problem(n);
            let here = design::optimize(&family, &problem, &mut |_| Verdict::Continue).unwrap();
            let mut told = 0;
            let there = client
                .optimize(&family, &problem, |_| {
                    told += 1;
                    Verdict::Continue
                })
                .await
                .unwrap();
            assert_eq!(there, here, "{family}");
            assert!(told > 0);
        }
        let here = design::recommend(&problem(24), 3, &mut |_| Verdict::Continue).unwrap();
        assert_eq!(client.recommend(&problem(24), 3, |_| Verdict::Continue).await.unwrap(), here);
    })
    .await;
}

/// Reads a stream to its end, and gives its messages; or its error.
async fn read_through<T>(
    answers: Result<tonic::Response<tonic::Streaming<T>>, Status>,
) -> Result<Vec<T>, Status> {
    let (mut answers, mut messages) = (answers?.into_inner(), Vec::new());
    while let Some(message) = answers.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

/// The error of a stream, wherever it comes.
async fn stream_error<T>(answers: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Status {
    match read_through(answers).await {
        Ok(_) => panic!("the stream ended without an error"),
        Err(status) => status,
    }
}

fn invalid(error: noised_client::Error) -> String {
    match error {
        noised_client::Error::Invalid { field, .. } => field,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_questions_name_the_field() {
    on_both(Options::default(), async |server: &mut Server| {
        let client = server.client().await.analysis();
        let good = strategy::banded_square_root(4, None).unwrap();
        let singular = specs::toeplitz(&[0.0, 1.0]);
        let short = MatrixSpec::Dense { rows: vec![vec![1.0], vec![1.0, 1.0]] };
        let errors = [
            (&good, None, 0, "n"),
            (&good, None, u64::MAX, "n"),
            (&good, None, (1 << 24) + 1, "n"),
            (&singular, None, 3, "strategy.coef[0]"),
            (&short, None, 3, "strategy"),
            (&good, Some(&short), 3, "workload"),
            (&specs::toeplitz(&[f64::NAN]), None, 3, "strategy.coef[0]"),
            (&good, Some(&specs::blt(&[2.0], &[1.0])), 3, "workload.buf_decay[0]"),
        ];
        for (strategy, workload, n, field) in errors {
            let error = client.query_errors(Mechanism::Strategy(strategy), workload, n).await.unwrap_err();
            assert_eq!(invalid(error), field);
        }
        let min_sep = |min_sep, max_participations| Participation::MinSep { min_sep, max_participations };
        let participations = [
            (min_sep(0, None), "min_sep"),
            (min_sep(11, None), "min_sep"),
            (min_sep(2, Some(0)), "max_participations"),
            (Participation::FixedEpochs { epochs: 0 }, "epochs"),
            (Participation::FixedEpochs { epochs: 3 }, "epochs"),
        ];
        for (participation, field) in participations {
            assert_eq!(invalid(client.sensitivity(&good, 10, participation).await.unwrap_err()), field);
            let problem = Problem { participation, ..problem(10) };
            let family = Family::BandedToeplitz { bands: 2 };
            assert_eq!(
                invalid(client.optimize(&family, &problem, |_| Verdict::Continue).await.unwrap_err()),
                field
            );
            assert_eq!(
                invalid(client.recommend(&problem, 2, |_| Verdict::Continue).await.unwrap_err()),
                field
            );
        }
        assert_eq!(invalid(client.sensitivity(&good, 0, Participation::Single).await.unwrap_err()), "n");
        for family in [Family::BandedToeplitz { bands: 0 }, Family::ColumnNormalizedBanded { bands: 0 }] {
            assert_eq!(
                invalid(client.optimize(&family, &problem(5), |_| Verdict::Continue).await.unwrap_err()),
                "bands"
            );
        }
        let targets = [
            (PrivacyTarget::ApproximateDp { epsilon: 0.0, delta: 1e-5 }, "epsilon"),
            (PrivacyTarget::ApproximateDp { epsilon: 1.0, delta: 0.0 }, "delta"),
            (PrivacyTarget::ApproximateDp { epsilon: 1.0, delta: 1.0 }, "delta"),
            (PrivacyTarget::ZeroConcentratedDp { rho: -1.0 }, "rho"),
            (PrivacyTarget::GaussianDp { mu: f64::NAN }, "mu"),
        ];
        for (target, field) in targets {
            assert_eq!(invalid(client.calibrate(Given::Target(target), 1.0, None).await.unwrap_err()), field);
        }
        // What the client library cannot ask.
        let mut raw = server.analysis().await;
        let missing = stream_error(raw.compute_errors(v1::ComputeErrorsRequest::default()).await).await;
        assert_invalid(&missing, "strategy", "is missing");
        let missing = raw.compute_sensitivity(v1::ComputeSensitivityRequest::default()).await.unwrap_err();
        assert_invalid(&missing, "strategy", "is missing");
        let missing = stream_error(raw.optimize_strategy(v1::OptimizeStrategyRequest::default()).await).await;
        assert_invalid(&missing, "family", "");
        let missing =
            stream_error(raw.recommend_strategy(v1::RecommendStrategyRequest::default()).await).await;
        assert_invalid(&missing, "problem", "is missing");
        let unknown = v1::Problem { n: 3, objective: 9, ..v1::Problem::default() };
        let request = v1::RecommendStrategyRequest { problem: Some(unknown), ..Default::default() };
        assert_invalid(&stream_error(raw.recommend_strategy(request).await).await, "objective", "9");
        let missing = raw.calibrate_noise(v1::CalibrateNoiseRequest::default()).await.unwrap_err();
        assert_invalid(&missing, "target", "is missing");
        let missing = raw.compute_privacy(v1::ComputePrivacyRequest::default()).await.unwrap_err();
        assert_invalid(&missing, "asked", "is missing");
        // The server goes on.
        client.sensitivity(&good, 10, Participation::Single).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privacy_is_what_the_library_computes() {
    on_both(Options::default(), async |server: &mut Server| {
        let client = server.client().await.analysis();
        let samplings = [
            Sampling::None,
            Sampling::Poisson { probability: 0.05 },
            Sampling::CyclicPoisson { probability: 0.05, bands: 4 },
            Sampling::FixedSize { batch_size: 5, examples: 100 },
        ];
        for sampling in samplings {
            for wanted in [
                Wanted::Privacy { noise_multiplier: 2.0, asked: Asked::Epsilon { delta: 1e-6 } },
                Wanted::Privacy { noise_multiplier: 2.0, asked: Asked::Delta { epsilon: 0.5 } },
                Wanted::Noise { epsilon: 2.0, delta: 1e-6 },
            ] {
                let question = Question { sampling, steps: 50, wanted };
                let expected = question.answer(&|| false).unwrap();
                assert_eq!(client.privacy(question).await.unwrap(), expected, "{question:?}");
            }
        }
        let wanted = Wanted::Privacy { noise_multiplier: 2.0, asked: Asked::Epsilon { delta: 1e-6 } };
        for (sampling, field) in [
            (Sampling::Poisson { probability: 1.5 }, "sampling_probability"),
            (Sampling::CyclicPoisson { probability: 0.5, bands: 51 }, "bands"),
            (Sampling::FixedSize { batch_size: 6, examples: 5 }, "batch_size"),
        ] {
            let question = Question { sampling, steps: 50, wanted };
            assert_eq!(invalid(client.privacy(question).await.unwrap_err()), field);
        }
    })
    .await;
}

/// One that takes minutes.
fn long_optimisation() -> v1::OptimizeStrategyRequest {
    let family = Some((&Family::ColumnNormalizedBanded { bands: 64 }).into());
    v1::OptimizeStrategyRequest { problem: Some((&problem(16_000)).into()), family, ..Default::default() }
}

/// What a search found.
fn design(messages: Vec<v1::OptimizeStrategyResponse>) -> v1::Design {
    use v1::optimize_strategy_response::Event;
    let (mut whole, mut parts) = (None, Incoming::default());
    for message in messages {
        match message.event.unwrap() {
            Event::Progress(_) => {}
            Event::Design(design) => whole = Some(design),
            Event::DesignPart(part) => parts.push(&part).unwrap(),
        }
    }
    whole.or_else(|| parts.finish().unwrap()).unwrap()
}

async fn place_is_free(server: &Server) {
    let client = server.client().await.analysis();
    within_patience(async {
        while client.row_norms_squared(&MatrixSpec::PrefixSum, 3).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optimisation_that_nobody_waits_for_frees_its_place() {
    let options = Options { max_analyses: Some(1), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.analysis().await;
        let mut unread = client.optimize_strategy(long_optimisation()).await.unwrap().into_inner();
        let news = unread.message().await.unwrap().unwrap();
        assert!(matches!(news.event, Some(v1::optimize_strategy_response::Event::Progress(_))), "{news:?}");
        let norms = v1::RowNormsSquaredRequest { matrix: Some((&MatrixSpec::PrefixSum).into()), n: 3 };
        let busy = client.row_norms_squared(norms).await.unwrap_err();
        assert_eq!(report(&busy, Code::ResourceExhausted).reason, "BUSY");
        drop(unread);
        place_is_free(server).await;

        // The search gives its best so far before its deadline, or the deadline cuts it off on a slow
        // machine.
        let mut request = tonic::Request::new(long_optimisation());
        request.set_timeout(Duration::from_secs(2));
        match read_through(client.optimize_strategy(request).await).await {
            Ok(messages) => {
                assert!(design(messages).unfinished, "a search of minutes was over in two seconds");
            }
            Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}"),
        }
        place_is_free(server).await;

        // Nothing is found by then. The timer of the client, which covers the beginning of the answer, may be
        // the first to end the call: its code is another.
        let mut request = tonic::Request::new(long_optimisation());
        request.set_timeout(Duration::from_millis(1));
        let ended = stream_error(client.optimize_strategy(request).await).await;
        assert!(matches!(ended.code(), Code::DeadlineExceeded | Code::Cancelled), "{ended:?}");
        place_is_free(server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_is_told_to_finish_gives_the_best_so_far() {
    on_both(Options::default(), async |server: &mut Server| {
        let client = server.client().await.analysis();
        // Minutes where nobody ends them.
        let family = Family::ColumnNormalizedBanded { bands: 16 };
        let design = client.optimize(&family, &problem(4_000), |_| Verdict::Finish).await.unwrap();
        assert!(!design.complete && design.loss.is_finite(), "{}", design.loss);
        let found = client.recommend(&problem(100_000), 64, |_| Verdict::Finish).await.unwrap();
        assert!(!found.complete && !found.candidates.is_empty(), "{}", found.reason);
        let given_up = client.optimize(&family, &problem(4_000), |_| Verdict::Abandon).await.unwrap_err();
        assert!(matches!(given_up, Error::Other { code: Code::Cancelled, .. }), "{given_up:?}");
        place_is_free(server).await;

        let mut raw = server.analysis().await;
        let unknown = v1::FinishSearchRequest { search_id: "another".to_owned() };
        assert!(!raw.finish_search(unknown).await.unwrap().into_inner().found);
        let missing = raw.finish_search(v1::FinishSearchRequest::default()).await.unwrap_err();
        assert_invalid(&missing, "search_id", "must not be empty");
        let long = v1::OptimizeStrategyRequest { search_id: "x".repeat(129), ..long_optimisation() };
        assert_invalid(
            &stream_error(raw.optimize_strategy(long).await).await,
            "search_id",
            "at most 128 bytes",
        );
    })
    .await;
}
