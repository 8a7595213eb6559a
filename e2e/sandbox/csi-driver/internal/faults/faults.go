// Package faults makes calls slow, failing or full on a test's demand. It knows names of calls and strings to match,
// nothing of volumes.
package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// ReadyKey is the switch that is no call: when snapshots count as ready to use.
const ReadyKey = "snapshotReady"

// Call is what a call shall suffer. The zero value is: nothing.
type Call struct {
	// Delay comes before the work.
	Delay time.Duration
	// Code is returned instead of the work; codes.OK means that the work is done.
	Code codes.Code
	// Message goes with Code.
	Message string
}

// Ready is when a snapshot counts as ready to use. The zero value is: at once.
type Ready struct {
	// Never holds as long as the switch is set.
	Never bool
	// After the snapshot was taken.
	After time.Duration
}

// File is the faults file. An empty path means that there are no faults.
type File string

type entry struct {
	DelayMs int64    `json:"delayMs"`
	Error   string   `json:"error"`
	Message string   `json:"message"`
	Match   []string `json:"match"`
	Never   bool     `json:"never"`
	AfterMs int64    `json:"afterMs"`
}

var methods = []string{
	"createVolume", "deleteVolume", "validateVolumeCapabilities", "listVolumes", "getCapacity",
	"createSnapshot", "deleteSnapshot", "listSnapshots", "controllerExpandVolume",
	"nodeStageVolume", "nodeUnstageVolume", "nodePublishVolume", "nodeUnpublishVolume",
	"nodeGetVolumeStats", "nodeExpandVolume",
}

// ForCall returns the fault of a call, by its name in lower camel case and the strings that occur in it.
func (f File) ForCall(method string, subject []string) (Call, error) {
	found, err := f.find(method, subject)
	if err != nil || found == nil {
		return Call{}, err
	}
	code, err := parseCode(found.Error)
	if err != nil {
		return Call{}, f.wrong(method, err)
	}
	message := found.Message
	if message == "" {
		message = "injected fault"
	}
	return Call{Delay: time.Duration(found.DelayMs) * time.Millisecond, Code: code, Message: message}, nil
}

// ForSnapshot returns when a snapshot counts as ready, by the strings that describe it.
func (f File) ForSnapshot(subject []string) (Ready, error) {
	found, err := f.find(ReadyKey, subject)
	if err != nil || found == nil {
		return Ready{}, err
	}
	return Ready{Never: found.Never, After: time.Duration(found.AfterMs) * time.Millisecond}, nil
}

func (f File) find(key string, subject []string) (*entry, error) {
	entries, err := f.read()
	if err != nil {
		return nil, err
	}
	found, ok := entries[key]
	if !ok {
		return nil, nil
	}
	for _, wanted := range found.Match {
		if !slices.ContainsFunc(subject, func(text string) bool { return strings.Contains(text, wanted) }) {
			return nil, nil
		}
	}
	return &found, nil
}

func (f File) read() (map[string]entry, error) {
	if f == "" {
		return nil, nil
	}
	text, err := os.ReadFile(string(f))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("faults file: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var entries map[string]entry
	if err := decoder.Decode(&entries); err != nil {
		return nil, fmt.Errorf("faults file %s: %w", f, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("faults file %s: more than one JSON value", f)
	}
	for key, found := range entries {
		if err := check(key, found); err != nil {
			return nil, f.wrong(key, err)
		}
	}
	return entries, nil
}

func check(key string, found entry) error {
	if key == ReadyKey {
		if found.DelayMs != 0 || found.Error != "" || found.Message != "" {
			return errors.New("only never, afterMs and match apply")
		}
		return nil
	}
	if !slices.Contains(methods, key) {
		return errors.New("no such call")
	}
	if found.Never || found.AfterMs != 0 {
		return fmt.Errorf("never and afterMs belong to %s", ReadyKey)
	}
	_, err := parseCode(found.Error)
	return err
}

// parseCode takes a code by the name it has in Go ("ResourceExhausted").
func parseCode(name string) (codes.Code, error) {
	if name == "" {
		return codes.OK, nil
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if code.String() == name {
			return code, nil
		}
	}
	return codes.OK, fmt.Errorf("no such gRPC code: %q", name)
}

func (f File) wrong(key string, err error) error {
	return fmt.Errorf("faults file %s: %s: %w", f, key, err)
}
