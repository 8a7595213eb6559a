// Package it starts the real binary on a temporary pool and uses it as the sidecars and the kubelet do. Root only.
package it

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const mib = 1 << 20

var driverBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hf-csi-it")
	if err != nil {
		panic(err)
	}
	driverBinary = filepath.Join(dir, "csi-driver")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", driverBinary, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build: %v: %s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a driver under test.
type rig struct {
	csi.ControllerClient
	csi.NodeClient
	t      *testing.T
	dir    string
	flags  []string
	cmd    *exec.Cmd
	exited chan struct{}
	conn   *grpc.ClientConn
	log    *lockedBuffer
}

type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer // not embedded: its ReadFrom would go round the mutex
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) text() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.String()
}

// newRig starts a driver; at the test's end it is killed, cleaned up, and nothing may be left on the machine.
func newRig(t *testing.T, flags ...string) *rig {
	t.Helper()
	t.Parallel()
	if os.Getuid() != 0 {
		t.Fatal("these tests mount file systems: run them as root")
	}
	r := &rig{t: t, dir: t.TempDir(), flags: flags, log: &lockedBuffer{}}
	t.Cleanup(func() {
		r.kill()
		if out, err := r.cleanup(); err != nil {
			t.Errorf("cleanup: %v\n%s", err, out)
		}
		if left := r.leftovers(); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
		if t.Failed() {
			t.Logf("driver log:\n%s", r.log.text())
		}
	})
	r.start()
	return r
}

func (r *rig) path(elements ...string) string {
	return filepath.Join(append([]string{r.dir}, elements...)...)
}

func (r *rig) start() {
	r.t.Helper()
	args := append([]string{
		"--endpoint=" + r.path("csi.sock"), "--data-dir=" + r.path("data"), "--node-id=n1",
		"--faults-file=" + r.path("faults.json"), "--pool-size=8Gi",
	}, r.flags...)
	before := strings.Count(r.log.text(), "msg=ready")
	cmd := exec.Command(driverBinary, args...)
	cmd.Stderr = r.log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.cmd = cmd
	exited := make(chan struct{})
	r.exited = exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	r.eventually("the driver is ready", func() bool {
		select {
		case <-exited:
			r.t.Fatalf("the driver ended:\n%s", r.log.text())
		default:
		}
		return strings.Count(r.log.text(), "msg=ready") > before
	})
	conn, err := grpc.NewClient("unix://"+r.path("csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
	r.ControllerClient = csi.NewControllerClient(conn)
	r.NodeClient = csi.NewNodeClient(conn)
}

// kill is kill -9.
func (r *rig) kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	<-r.exited
	r.conn.Close()
	r.cmd = nil
}

func (r *rig) restart() {
	r.t.Helper()
	r.kill()
	r.start()
}

func (r *rig) cleanup() (string, error) {
	out, err := exec.Command(driverBinary, "--cleanup", "--data-dir="+r.path("data")).CombinedOutput()
	return string(out), err
}

// leftovers lists mounts and loop devices that carry the test's directory.
func (r *rig) leftovers() string {
	var left strings.Builder
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, r.dir+"/") {
			left.WriteString(line)
		}
	}
	for _, loop := range r.loops("") {
		left.WriteString(loop + "\n")
	}
	return left.String()
}

// loops lists the attached devices whose backing file lies below a folder of the test's directory.
func (r *rig) loops(below string) []string {
	var found []string
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), r.path(below)+"/") {
			found = append(found, strings.Split(file, "/")[3]+" "+strings.TrimSpace(string(text)))
		}
	}
	return found
}

func (r *rig) eventually(what string, check func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !check() {
		if time.Now().After(deadline) {
			r.t.Fatalf("timed out: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func capability(fsType string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags}},
	}
}

func block() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
	}}
}

func createRequest(name string, size int64, source *csi.VolumeContentSource) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{block()}, VolumeContentSource: source,
	}
}

func (r *rig) volume(name string, size int64, source *csi.VolumeContentSource) string {
	r.t.Helper()
	response, err := r.CreateVolume(r.ctx(), createRequest(name, size, source))
	if err != nil {
		r.t.Fatal(err)
	}
	return response.GetVolume().GetVolumeId()
}

func (r *rig) snapshot(name, volume string) string {
	r.t.Helper()
	response, err := r.CreateSnapshot(r.ctx(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
	if err != nil {
		r.t.Fatal(err)
	}
	if !response.GetSnapshot().GetReadyToUse() {
		r.t.Fatalf("snapshot %s is not ready", name)
	}
	return response.GetSnapshot().GetSnapshotId()
}

func (r *rig) tryStage(volume string, c *csi.VolumeCapability) error {
	_, err := r.NodeStageVolume(r.ctx(), &csi.NodeStageVolumeRequest{
		VolumeId: volume, StagingTargetPath: r.path("staging", volume), VolumeCapability: c,
	})
	return err
}

func (r *rig) tryPublish(volume, target string, c *csi.VolumeCapability, readOnly bool) error {
	_, err := r.NodePublishVolume(r.ctx(), &csi.NodePublishVolumeRequest{
		VolumeId: volume, StagingTargetPath: r.path("staging", volume), TargetPath: target, VolumeCapability: c, Readonly: readOnly,
	})
	return err
}

// use stages and publishes a volume and returns its target path.
func (r *rig) use(volume string, c *csi.VolumeCapability) string {
	r.t.Helper()
	target := r.path("pods", volume)
	if err := r.tryStage(volume, c); err != nil {
		r.t.Fatal(err)
	}
	if err := r.tryPublish(volume, target, c, false); err != nil {
		r.t.Fatal(err)
	}
	return target
}

func (r *rig) tryRelease(volume string) error {
	_, err := r.NodeUnpublishVolume(r.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: volume, TargetPath: r.path("pods", volume)})
	if err == nil {
		_, err = r.NodeUnstageVolume(r.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: volume, StagingTargetPath: r.path("staging", volume)})
	}
	return err
}

func (r *rig) release(volume string) {
	r.t.Helper()
	if err := r.tryRelease(volume); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) faults(json string) {
	r.t.Helper()
	fresh := r.path("faults.json.new")
	if err := os.WriteFile(fresh, []byte(json), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(fresh, r.path("faults.json")); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wantCode(err error, code codes.Code, words ...string) {
	r.t.Helper()
	if status.Code(err) != code {
		r.t.Fatalf("want %s, got %v", code, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			r.t.Fatalf("want %q in %v", word, err)
		}
	}
}

// random bytes that repeat for a seed.
func random(seed uint64, length int) []byte {
	data := make([]byte, length)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = source.Read(data)
	return data
}

func (r *rig) writeAt(path string, offset int64, data []byte) {
	r.t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(data, offset); err != nil {
		r.t.Fatal(err)
	}
	if err := file.Sync(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) readAt(path string, offset int64, length int) []byte {
	r.t.Helper()
	file, err := os.Open(path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer file.Close()
	data := make([]byte, length)
	if _, err := file.ReadAt(data, offset); err != nil {
		r.t.Fatal(err)
	}
	return data
}

func (r *rig) wantBytes(path string, offset int64, want []byte) {
	r.t.Helper()
	if got := r.readAt(path, offset, len(want)); !bytes.Equal(got, want) {
		r.t.Fatalf("%s at %d: other bytes than expected (%x, want %x)", path, offset, sha256.Sum256(got), sha256.Sum256(want))
	}
}

// writeFile writes a file and makes it durable, as a database does.
func (r *rig) writeFile(path string, data []byte) {
	r.t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.writeAt(path, 0, data)
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		r.t.Fatal(err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) statfs(path string) unix.Statfs_t {
	r.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		r.t.Fatal(err)
	}
	return st
}

func (r *rig) run(name string, args ...string) string {
	r.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}
