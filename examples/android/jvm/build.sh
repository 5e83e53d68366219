#!/bin/sh
# Build the program `sample` on a JVM: sh build.sh FOLDER, then FOLDER/sample unet.onnx --out grid.png.
# ONNX Runtime is Debian's (apt install openjdk-17-jdk-headless g++ pkg-config libonnxruntime-dev) behind the stand-in
# for its Java classes that lies here; with ORT_JAR=onnxruntime-1.27.0.jar it is that jar, and no C++ is compiled.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/classes"
out=$(cd "$1" && pwd)

javac=$(command -v javac)
set -- "$here"/../app/src/main/java/ddpm/OneCall.java "$here"/ddpm/*.java
if [ -z "${ORT_JAR:-}" ]; then
    java_home=$(dirname "$(dirname "$(readlink -f "$javac")")")
    # shellcheck disable=SC2046  # pkg-config prints several words
    ${CXX:-c++} -std=c++17 -O2 -Wall -Wextra -Wpedantic -Werror -shared -fPIC \
        -isystem "$java_home/include" -isystem "$java_home/include/linux" \
        -o "$out/libonnxruntime_standin.so" "$here/onnxruntime_standin.cpp" \
        $(pkg-config --cflags --libs libonnxruntime | sed 's/-I/-isystem /')
    set -- "$@" "$here"/ai/onnxruntime/*.java
fi
# -options: a newer javac finds --release 8 old, which is what Android's desugaring takes everywhere
"$javac" --release 8 -Xlint:all,-options -Werror ${ORT_JAR:+-cp "$ORT_JAR"} -d "$out/classes" "$@"

cat > "$out/sample" <<END
#!/bin/sh
export ORT_DISABLE_TELEMETRY="\${ORT_DISABLE_TELEMETRY-1}" # a JVM cannot set its own environment
here=\$(cd "\$(dirname "\$0")" && pwd)
exec java -Djava.awt.headless=true -Djava.library.path="\$here" -cp "\$here/classes${ORT_JAR:+:$ORT_JAR}" ddpm.Sample "\$@"
END
chmod +x "$out/sample"
