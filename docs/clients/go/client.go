// A complete client of verify-svc: streams, cancels, keeps a deadline, goes on after a failure.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "dssd/v1"
)

const (
	maxMessageBytes = 16 << 20
	// Failures in a row, without a new token between them, after which a generation is given up.
	mostFailures = 8
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
	// A name with several addresses: all are used, by `dns:///NAME:PORT`.
	serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}]}`
)

var (
	endpoint     = flag.String("endpoint", "127.0.0.1:50051", "`HOST:PORT`")
	tlsCA        = flag.String("tls-ca", "", "encrypt; `FILE` with CAs in PEM")
	tokenFile    = flag.String("token-file", "", "`FILE` whose first line is the token")
	maxNewTokens = flag.Uint("max-new-tokens", 128, "most tokens to generate")
	temperature  = flag.Float64("temperature", 0, "0: greedy")
	topP         = flag.Float64("top-p", 1, "probability mass kept")
	seed         = flag.Uint64("seed", 0, "unset: the server draws one")
	ignoreEOS    = flag.Bool("ignore-eos", false, "go on after the end of the text")
	policy       = flag.String("policy", "", "draft policy; unset: the server's")
	deadline     = flag.Float64("deadline", 60, "`SECONDS` for all attempts")
	cancelAfter  = flag.Int("cancel-after", 0, "cancel after so many `TOKENS`")
	trace        = flag.Bool("trace", false, "tell how each token came")
)

// generation is what has come of one generation, and what another attempt needs to go on.
type generation struct {
	first    *pb.GenerateRequest
	tokenIDs []uint32
	info     *pb.PromptInfo
	finish   *pb.FinishInfo
}

// request is that of the next attempt.
func (g *generation) request() *pb.GenerateRequest {
	if g.info != nil {
		g.first.Resume = &pb.Resume{
			TokenIds:   g.tokenIDs,
			Seed:       g.info.GetSampling().GetSeed(),
			NumericsId: g.info.GetNumericsId(),
		}
	}
	return g.first
}

// take appends new tokens; a gap would spoil the text.
func (g *generation) take(tokens *pb.Tokens) error {
	if int(tokens.GetFirstIndex()) != len(g.tokenIDs) {
		return fmt.Errorf("token %d came, not %d", tokens.GetFirstIndex(), len(g.tokenIDs))
	}
	g.tokenIDs = append(g.tokenIDs, tokens.GetTokenIds()...)
	return nil
}

// isComplete tells whether all tokens came: where only `finish_info` was lost, there is nothing to resume.
func (g *generation) isComplete() bool {
	if g.finish != nil {
		return true
	}
	if len(g.tokenIDs) == 0 {
		return false
	}
	for _, stop := range g.info.GetSampling().GetStopTokenIds() {
		if stop == g.tokenIDs[len(g.tokenIDs)-1] {
			return true
		}
	}
	return len(g.tokenIDs) >= int(g.info.GetSampling().GetMaxNewTokens())
}

func note(format string, values ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
}

// showRound tells how each token of a round came; those behind a refused one were not judged.
func showRound(round *pb.RoundTrace) {
	for _, token := range round.GetDrafted() {
		fate := "refused"
		if token.GetAccepted() {
			fate = "accepted"
		}
		note("%d %s exit=%d entropy=%.4f", token.GetTokenId(), fate, token.GetExitHead(), token.GetEntropy())
	}
	if len(round.GetDrafted()) > 0 {
		note("%d corrected", round.GetCorrection())
	} else {
		note("%d plain %s", round.GetCorrection(), round.GetPlainReason())
	}
}

func showFinish(finish *pb.FinishInfo) {
	drafts := finish.GetSpeculativeDecoding()
	note("%s generated=%d resumed=%d drafted=%d accepted=%d",
		finish.GetFinishReason(), finish.GetGeneratedTokenCount(), finish.GetResumedTokenCount(),
		drafts.GetNumDraftTokens(), drafts.GetNumAcceptedTokens())
}

// showError tells the code, the message and the `google.rpc` details.
func showError(err error) {
	failed := status.Convert(err)
	note("%s: %s", code.Code(failed.Code()), failed.Message())
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				note("  BadRequest: %s: %s", violation.GetField(), violation.GetDescription())
			}
		case *errdetails.PreconditionFailure:
			for _, violation := range detail.GetViolations() {
				note("  PreconditionFailure: %s: %s", violation.GetSubject(), violation.GetDescription())
			}
		case *errdetails.RetryInfo:
			note("  RetryInfo: %s", delay(detail))
		}
	}
}

func delay(retry *errdetails.RetryInfo) time.Duration {
	told := retry.GetRetryDelay()
	return time.Duration(told.GetSeconds())*time.Second + time.Duration(told.GetNanos())
}

// pause is how long to wait: what the server says, else twice as long after each failure.
func pause(err error, failures int) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if retry, is := detail.(*errdetails.RetryInfo); is {
			return delay(retry)
		}
	}
	if doubled := firstPause << (failures - 1); doubled < longestPause {
		return doubled
	}
	return longestPause
}

// isPassing tells whether another attempt may fare better.
func isPassing(err error) bool {
	switch status.Code(err) {
	// Aborted: what came was not read in time.
	case codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return true
	}
	return false
}

// attempt reads one stream to its end. False: it was cancelled.
func attempt(ctx context.Context, client pb.GenerationClient, g *generation, again bool) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A call after a failure waits for the connection; the first one tells at once of a wrong address.
	stream, err := client.GenerateStream(ctx, g.request(), grpc.WaitForReady(again))
	if err != nil {
		return false, err
	}
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		switch event := message.GetEvent().(type) {
		case *pb.GenerateStreamResponse_PromptInfo:
			g.info = event.PromptInfo
		case *pb.GenerateStreamResponse_Tokens:
			if err := g.take(event.Tokens); err != nil {
				return false, err
			}
			fmt.Print(event.Tokens.GetText())
		case *pb.GenerateStreamResponse_Round:
			showRound(event.Round)
		case *pb.GenerateStreamResponse_FinishInfo:
			g.finish = event.FinishInfo
		}
		if *cancelAfter > 0 && len(g.tokenIDs) >= *cancelAfter {
			return false, nil
		}
	}
}

// generate makes attempts until the generation is complete or cancelled. All attempts share the deadline of `ctx`.
func generate(ctx context.Context, client pb.GenerationClient, g *generation) (bool, error) {
	for failures := 0; ; {
		before := len(g.tokenIDs)
		finished, err := attempt(ctx, client, g, failures > 0)
		if err == nil {
			return finished, nil
		}
		if g.isComplete() {
			return true, nil
		}
		failures++
		if len(g.tokenIDs) > before {
			failures = 1
		}
		if !isPassing(err) || failures > mostFailures {
			return false, err
		}
		wait := pause(err, failures)
		showError(err)
		note("again in %.3f s with %d tokens", wait.Seconds(), len(g.tokenIDs))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func connect() (*grpc.ClientConn, error) {
	security := grpc.WithInsecure()
	if *tlsCA != "" {
		pem, err := os.ReadFile(*tlsCA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, errors.New("--tls-ca holds no certificate")
		}
		security = grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots}))
	}
	return grpc.Dial(*endpoint, security,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		// Finds out that a server vanished without a word.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultServiceConfig(serviceConfig))
}

// authorize adds the token to what every call of `ctx` sends.
func authorize(ctx context.Context) (context.Context, error) {
	if *tokenFile == "" {
		return ctx, nil
	}
	lines, err := os.ReadFile(*tokenFile)
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(lines), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+line), nil
		}
	}
	return nil, errors.New("--token-file holds no token")
}

func request(prompt string) *pb.GenerateRequest {
	count, heat := uint32(*maxNewTokens), float32(*temperature)
	request := &pb.GenerateRequest{
		Prompt:       &pb.GenerateRequest_Text{Text: prompt},
		MaxNewTokens: &count,
		Temperature:  &heat,
		IgnoreEos:    *ignoreEOS,
		Speculation:  &pb.Speculation{Policy: *policy, Trace: *trace},
	}
	// A field that is left out is unset, which is another thing than zero.
	flag.Visit(func(given *flag.Flag) {
		switch given.Name {
		case "seed":
			request.Seed = seed
		case "top-p":
			mass := float32(*topP)
			request.TopP = &mass
		}
	})
	return request
}

func run(prompt string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*deadline*float64(time.Second)))
	defer cancel()
	ctx, err := authorize(ctx)
	if err != nil {
		return err
	}
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	g := &generation{first: request(prompt)}
	finished, err := generate(ctx, pb.NewGenerationClient(connection), g)
	fmt.Println()
	if err != nil {
		return err
	}
	if !finished {
		note("cancelled after %d tokens", len(g.tokenIDs))
	} else if !g.isComplete() {
		return fmt.Errorf("the stream ended before the answer, after %d tokens", len(g.tokenIDs))
	} else if g.finish != nil {
		showFinish(g.finish)
	}
	return nil
}

func main() {
	flag.Parse()
	if flag.NArg() != 1 {
		note("usage: client [FLAGS] PROMPT")
		os.Exit(2)
	}
	if err := run(flag.Arg(0)); err != nil {
		showError(err)
		os.Exit(1)
	}
}
