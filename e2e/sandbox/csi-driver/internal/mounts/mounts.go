// Package mounts reads the mount table and changes it. It knows paths and devices, not volumes.
package mounts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mount is one line of /proc/self/mountinfo.
type Mount struct {
	// MajorMinor is the number of the mounted device, "7:3".
	MajorMinor string
	// Root is the part of the file system that is mounted: "/loop3" for a bind-mounted device node.
	Root string
	// Path is the mount point.
	Path string
	// FSType is the file system's type.
	FSType string
	// Options are the per-mount options ("ro", "noatime").
	Options []string
}

// ReadOnly tells whether this mount (not the file system) is read-only.
func (m Mount) ReadOnly() bool {
	for _, option := range m.Options {
		if option == "ro" {
			return true
		}
	}
	return false
}

// NodeDev is the device number of the device node that is bind-mounted here, 0 for any other mount.
func (m Mount) NodeDev() uint64 {
	if !strings.HasPrefix(path.Base(m.Root), "loop") {
		return 0 // only loop devices are of interest, and stat may hang on a dead network mount
	}
	var st unix.Stat_t
	if err := unix.Lstat(m.Path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0
	}
	return st.Rdev
}

// List returns all mounts of this mount namespace, oldest first.
func List() ([]Mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parse(text)
}

func parse(text []byte) ([]Mount, error) {
	var list []Mount
	scanner := bufio.NewScanner(bytes.NewReader(text))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		separator := -1
		for i := 6; i < len(fields); i++ {
			if fields[i] == "-" {
				separator = i
				break
			}
		}
		if separator < 0 || separator+1 >= len(fields) {
			return nil, fmt.Errorf("mountinfo line not understood: %q", scanner.Text())
		}
		list = append(list, Mount{
			MajorMinor: fields[2],
			Root:       unescape(fields[3]),
			Path:       unescape(fields[4]),
			Options:    strings.Split(fields[5], ","),
			FSType:     fields[separator+1],
		})
	}
	return list, scanner.Err()
}

// unescape undoes the kernel's \ooo for space, tab, newline and backslash.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if value, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(value))
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

// At returns the topmost mount at a path, nil if the path is no mount point.
func At(mountPoint string) (*Mount, error) {
	list, err := List()
	if err != nil {
		return nil, err
	}
	mountPoint = path.Clean(mountPoint)
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Path == mountPoint {
			return &list[i], nil
		}
	}
	return nil, nil
}

// Device mounts a file system from a block device by mount(8), which knows how to read option strings.
func Device(ctx context.Context, device, target, fsType string, options []string) error {
	args := []string{"-t", fsType}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	cmd := exec.CommandContext(ctx, "mount", append(args, "--", device, target)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mount -t %s %s: %w: %s", fsType, device, err, bytes.TrimSpace(out))
	}
	return nil
}

// Bind mounts source also at target, read-only if asked. The other flags of the source mount stay.
func Bind(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	if !readOnly {
		return nil
	}
	var st unix.Statfs_t
	err := unix.Statfs(target, &st)
	if err == nil {
		// A remount sets all per-mount flags anew; statfs reports them with the same values as mount(2) takes.
		const keep = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME
		flags := uintptr(st.Flags)&keep | unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
		err = unix.Mount("", target, "", flags, "")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", target, err), unix.Unmount(target, unix.MNT_DETACH))
	}
	return nil
}

// Unmount removes every mount stacked at a path. No mount there is no error.
func Unmount(ctx context.Context, target string) error {
	target = path.Clean(target)
	for {
		mount, err := At(target)
		if err != nil || mount == nil {
			return err
		}
		if err := unmountOne(ctx, target); err != nil {
			return err
		}
	}
}

// unmountOne gives short-lived users of the mount (a scanner, a container that just ends) time to go.
func unmountOne(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if !errors.Is(err, unix.EBUSY) {
			if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: somebody else unmounted it
				return fmt.Errorf("unmount %s: %w", target, err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w", target, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
